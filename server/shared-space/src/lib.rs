//! The shared space's rules, pure: changes, logs, vectors, items, conflicts.
