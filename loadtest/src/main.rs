//! The program around the library; `tickcast bench` is the same.
#![forbid(unsafe_code)]

fn main() {}
