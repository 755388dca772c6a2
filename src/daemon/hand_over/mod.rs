//! A connection that another process passes on. libvirt starts one paragpud for each VM and gives it a connected socket;
//! where a daemon of the whole host runs, that process is a **launcher**: it hands the socket over, so that the VM is
//! limited and seen like any other, and then lives as long as the VM. When libvirt kills it, the daemon ends the session;
//! when the session ends, it does.
//!
//! The seam is a socket of its own, on which [`ToDaemon`] travels one way, with the VM's socket beside it, and
//! [`ToLauncher`] the other. Who may connect, its permissions say; who did, the kernel (`SO_PEERCRED`).

pub(super) mod desk;
pub(super) mod launcher;
mod vm_name;

use serde::{Deserialize, Serialize};

/// The version of these messages: after an upgrade an old daemon may meet a new launcher.
const VERSION: u32 = 1;

/// What a launcher says, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum ToDaemon {
    /// Serve the socket that is beside this.
    Take {
        /// [`VERSION`].
        version: u32,
        /// What the VM is called, as far as the launcher knows.
        vm: VmName,
    },
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum ToLauncher {
    /// The socket is the daemon's now.
    Taken,
    /// It is not served, or not any more.
    Refused {
        /// Why.
        reason: String,
    },
    /// The session is over.
    Ended,
}

/// What a VM is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum VmName {
    /// Nobody said.
    #[default]
    Unknown,
    /// This.
    Whole(String),
    /// It begins like this, and may have been cut here.
    Cut(String),
}
