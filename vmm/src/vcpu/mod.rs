//! Virtual CPUs: what they are before they run ([`cpuid`], [`registers`]), the thread that runs one ([`thread`]), and how often it came
//! back ([`statistics`]).

pub mod cpuid;
pub mod registers;
pub mod statistics;
pub mod thread;
