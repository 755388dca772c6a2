//! What an executor may do: a guest names files in its programs (`#include`), and on a CPU device a guest's kernel is
//! native code in this process.
//!
//! The broker has started it in namespaces of its own, where it could. What follows needs no privileges, and is for good.
//! In this order, since each step needs what the next one takes:
//!
//! 1. [`resources`]: privileges are given up, and limits set;
//! 2. [`paths`]: Landlock, for files, devices, TCP, and signals to others;
//! 3. [`system_calls`]: seccomp, from the policy in resources/seccomp/executor.toml;
//! 4. when the driver is loaded, and before a guest's first command: what only other drivers need is dropped
//!    ([`Confined::driver_loaded`]).
//!
//! docs/security.md says what this stops, and how to let a vendor's driver have more.

mod paths;
mod resources;
mod system_calls;

use landlock::RulesetError;

use crate::executor::confinement::{CONFINEMENT_VARIABLE, Confinement, Sandbox, Seccomp};

use self::system_calls::Filters;

/// Why an executor could not confine itself as it was told.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The broker's words are not understood.
    #[error("{CONFINEMENT_VARIABLE}: {0}")]
    Settings(#[from] serde_json::Error),
    /// Privileges or limits.
    #[error("{0}: {1}")]
    Resources(&'static str, #[source] rustix::io::Errno),
    /// This kernel has no Landlock, and it was asked for.
    #[error("this kernel has no Landlock")]
    NoLandlock,
    /// Landlock failed.
    #[error("Landlock: {0}")]
    Landlock(#[from] RulesetError),
    /// The policy, or what the configuration adds to it, is wrong.
    #[error("policy of system calls: {0}")]
    Policy(#[from] system_calls::PolicyError),
    /// The kernel did not take a filter.
    #[error("seccomp: {0}")]
    Seccomp(#[from] seccompiler::Error),
}

/// An executor that is confined, but for what the choice of its driver decides.
#[derive(Debug)]
pub(super) struct Confined {
    filters: Option<Filters>,
}

/// Confines this process. Before it has a second thread: a thread is confined with the one that starts it.
pub(super) fn confine() -> Result<Confined, ConfineError> {
    let confinement = match std::env::var(CONFINEMENT_VARIABLE) {
        Ok(settings) => serde_json::from_str(&settings)?,
        Err(_) => Confinement::default(),
    };
    resources::give_up_privileges()?;
    resources::limit(&confinement)?;
    match (confinement.sandbox, paths::confine(&confinement)) {
        (Sandbox::None, _) | (_, Ok(true)) => {}
        (Sandbox::Auto, Ok(false)) => {
            log::warn!("this kernel has no Landlock: guests' programs can include what paragpud can read");
        }
        (Sandbox::Auto, Err(error)) => {
            log::warn!("no Landlock ({error}): guests' programs can include what paragpud can read");
        }
        (_, Ok(false)) => return Err(ConfineError::NoLandlock),
        (_, Err(error)) => return Err(error.into()),
    }
    let filters = match confinement.seccomp {
        Seccomp::None => None,
        action => Some(Filters::new(action, &confinement.system_calls)?),
    };
    if let Some(filters) = &filters {
        filters.apply()?;
    }
    Ok(Confined { filters })
}

/// Whether executors can be confined so, as far as this can be told before one starts: the names of system calls.
pub fn check(confinement: &Confinement) -> Result<(), ConfineError> {
    Filters::new(confinement.seccomp, &confinement.system_calls)?;
    Ok(())
}

impl Confined {
    /// Drops what the driver of this OpenCL platform does not need. After it has started its threads.
    pub(super) fn driver_loaded(self, platform: &str) -> Result<(), ConfineError> {
        if let Some(filters) = self.filters {
            filters.driver_loaded(platform)?;
        }
        Ok(())
    }
}
