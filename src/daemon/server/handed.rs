//! Connections that launchers hand over: whose vGPU is it, and what when a launcher ends?

use log::{Level, info};

use super::Server;
use crate::config::name_made_of;
use crate::daemon::connections::{Arrival, Door};
use crate::daemon::hand_over::VmName;
use crate::daemon::hand_over::desk::HandedOver;
use crate::registry::Origin;

impl Server {
    pub(super) fn accept_launcher(&mut self) {
        let Some(door) = &self.doors.hand_over else { return };
        match door.listener().accept().and_then(|(launcher, _)| self.desk.add(launcher)) {
            Ok(()) => {}
            Err(error) => self.not_accepted(&error),
        }
    }

    /// A launcher says something.
    pub(super) fn take_over(&mut self, id: u64) {
        let HandedOver { stream, vm, tie } = match self.desk.take(id) {
            Ok(Some(handed)) => handed,
            Ok(None) => return,
            Err(error) => return self.log.line(Level::Warn, format_args!("hand-over refused: {error}")),
        };
        let door = self.door_of(&vm);
        if let Some((pid, uid)) = tie.peer {
            let whose = match &door {
                Door::Own => "a VM",
                Door::Of(name) | Door::Named(name) => name,
            };
            info!("{whose}: handed over by process {pid} of user {uid}");
        }
        self.take_connection(Arrival { stream, door, launcher: Some(Box::new(tie)) });
    }

    /// The vGPU of the configuration that has the VM's name, or one of its own. The name is the launcher's word: whoever the
    /// hand-over socket lets in is believed, as whoever a vGPU's own socket lets in is that vGPU.
    fn door_of(&self, vm: &VmName) -> Door {
        match vm {
            VmName::Unknown => Door::Own,
            VmName::Whole(name) if self.is_configured(name) => Door::Of(name.clone()),
            VmName::Whole(name) | VmName::Cut(name) => Door::Named(name_made_of(&format!("vm-{name}"))),
        }
    }

    fn is_configured(&self, name: &str) -> bool {
        self.registry.vgpus().get(name).is_some_and(|vgpu| vgpu.origin != Origin::Connection)
    }

    /// A connection's launcher has ended, or says what it should not: so does the session.
    pub(super) fn launcher_stirs(&mut self, id: u64) {
        if self.connections.launcher_is_gone(id)
            && let Some(name) = self.connections.hang_up(id)
        {
            info!("{name}: its launcher ended");
        }
    }
}
