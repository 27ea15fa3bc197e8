//! Two servers whose events are carried by hand.
