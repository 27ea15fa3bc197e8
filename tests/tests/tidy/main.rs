//! What the sources look like is tested too: who may depend on whom, no import
//! circles, small files and functions, a purpose on top of each file.

mod edges;
mod imports;
mod sizes;
mod sources;
