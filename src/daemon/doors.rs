//! The sockets at which guests connect.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::socket::OwnedListener;
use crate::config::Socket;
use crate::registry::{Refusal, Steps};

/// The vGPUs' sockets, and the one at which each connection becomes a vGPU.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// That one. It may be inherited, and is not removed then.
    pub(super) own: Option<Own>,
    /// The one at which launchers hand connections over.
    pub(super) hand_over: Option<OwnedListener>,
    vgpus: Vec<(Socket, OwnedListener)>,
}

/// The socket at which each connection becomes a vGPU of its own.
#[derive(Debug)]
pub(super) enum Own {
    Bound(OwnedListener),
    Inherited(UnixListener),
}

impl Own {
    pub(super) fn listener(&self) -> &UnixListener {
        match self {
            Own::Bound(bound) => bound.listener(),
            Own::Inherited(listener) => listener,
        }
    }
}

/// Sockets that are bound for a change, and permissions that it changed.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    bound: Vec<(Socket, OwnedListener)>,
    /// The sockets as they were.
    permitted: Vec<Socket>,
}

impl Doors {
    /// Does of a change what may fail. If something does, everything is as it was.
    pub(super) fn prepare(&self, steps: &Steps) -> Result<Prepared, Refusal> {
        let mut prepared = Prepared::default();
        for socket in &steps.bind {
            match OwnedListener::bind(socket) {
                Ok(listener) => prepared.bound.push((socket.clone(), listener)),
                Err(error) => {
                    self.undo(prepared);
                    return Err(refusal("cannot listen on", &socket.path, &error));
                }
            }
        }
        for socket in &steps.permit {
            let Some((before, listener)) = self.at(&socket.path) else { continue };
            prepared.permitted.push(before.clone());
            if let Err(error) = listener.permit(socket) {
                self.undo(prepared);
                return Err(refusal("cannot change who may connect to", &socket.path, &error));
            }
        }
        Ok(prepared)
    }

    fn undo(&self, prepared: Prepared) {
        for before in &prepared.permitted {
            if let Some((_, listener)) = self.at(&before.path)
                && let Err(error) = listener.permit(before)
            {
                log::warn!("{} does not get its permissions back: {error}", before.path.display());
            }
        }
    }

    /// Does the rest.
    pub(super) fn commit(&mut self, prepared: Prepared, steps: &Steps) {
        self.vgpus.retain(|(socket, _)| !steps.close.contains(&socket.path));
        for changed in &steps.permit {
            if let Some((socket, _)) = self.vgpus.iter_mut().find(|(socket, _)| socket.path == changed.path) {
                *socket = changed.clone();
            }
        }
        self.vgpus.extend(prepared.bound);
    }

    fn at(&self, path: &Path) -> Option<&(Socket, OwnedListener)> {
        self.vgpus.iter().find(|(socket, _)| socket.path == path)
    }

    /// The vGPUs' sockets with their paths.
    pub(super) fn vgpus(&self) -> impl Iterator<Item = (&PathBuf, &UnixListener)> {
        self.vgpus.iter().map(|(socket, listener)| (&socket.path, listener.listener()))
    }
}

fn refusal(what: &str, path: &Path, error: &io::Error) -> Refusal {
    Refusal::Host(format!("{what} {}: {error}", path.display()))
}
