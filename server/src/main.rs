//! The composition root and command line.

fn main() {}
