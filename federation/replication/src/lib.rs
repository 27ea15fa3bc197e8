//! Anti-entropy between servers, pure and sans-IO.
