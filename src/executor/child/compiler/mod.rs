//! The compiler: a process beside an executor that builds a program before the executor does, and may be killed.
//!
//! A guest chooses what is compiled, and compilers can be kept busy for ever, made to eat memory, or crashed. A thread
//! that does that cannot be ended; a process can. What the compiler makes is thrown away: the driver's cache, which the
//! two share, has it. One does one build at a time, so that the one that is ended is the guilty one.

mod process;
pub(super) mod recipe;
pub(super) mod trial;
mod wire;

pub use process::main;
