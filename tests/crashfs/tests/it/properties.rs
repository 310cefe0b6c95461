//! Random operations, compared with what is known to be right.
mod reference;
mod twin;
