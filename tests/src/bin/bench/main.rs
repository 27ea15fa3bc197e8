//! `make bench`: measures; prints a table and writes a list of figures.

fn main() {}
