//! How executors are to be confined: what the operator chose, as plain data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What an executor may do. The default is as much confinement as the host offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Confinement {
    /// What keeps files, processes and the network away from it.
    pub sandbox: Sandbox,
    /// What happens when it makes a system call that the policy does not allow.
    pub seccomp: Seccomp,
    /// Files and directories that it may read beside the usual ones: a vendor's libraries, compilers and settings.
    pub read: Vec<PathBuf>,
    /// Device nodes, and directories of such, that it may use beside the usual ones.
    pub devices: Vec<PathBuf>,
    /// System calls that it may make beside those of the policy, by name, or a group of the policy as `@name`.
    pub system_calls: Vec<String>,
    /// Most bytes of address space. None unless told: drivers of GPUs reserve far more than they use.
    pub address_space: Option<u64>,
}

/// What keeps files, processes and the network away from an executor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// Landlock and namespaces, as far as this host lets paragpud; a warning says what is missing
    #[default]
    Auto,
    /// Landlock, and PID, network, IPC and mount namespaces of its own; paragpud refuses to start where it cannot
    Namespace,
    /// Landlock alone; paragpud refuses to start where it cannot
    Landlock,
    /// Nothing: executors read and signal whatever paragpud may
    None,
}

/// What happens when an executor makes a system call that the policy does not allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// The executor ends, and the kernel's log names the call
    #[default]
    Kill,
    /// The call is made, and the kernel's log names it: to find out what a driver needs
    Log,
    /// The executor gets SIGSYS: for debuggers
    Trap,
    /// No filter: every system call is allowed
    None,
}

/// The environment variable in which a [`Confinement`] reaches the executor, as JSON.
pub const CONFINEMENT_VARIABLE: &str = "PARAGPU_CONFINEMENT";
