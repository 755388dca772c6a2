//! Executors: the processes, one per vGPU, that run a guest's commands on the host's OpenCL.
//!
//! [`supervisor`] is the broker's side, [`child`] the executor's; [`message`] is what they say to each other, and
//! [`channel`] carries it. [`confinement`] is what an executor may do beside that. What compilers have come to an end
//! with is [`known`] to both.

pub mod channel;
pub mod child;
pub mod confinement;
pub mod devices;
pub mod fuzz;
pub mod known;
pub mod message;
pub mod supervisor;
