//! Who is connected, and for whom there is room.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::SystemTime;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::hand_over::desk::Tie;
use crate::registry::mailbox::ConnectionView;
use crate::sched::VgpuId;
use crate::vhost::orders::{Order, Orders};

/// Most connections at once: each is a thread, and an executor once it is used.
pub(super) const MAX_CONNECTIONS: usize = 1024;

/// Most connections to one socket that have said nothing yet: who floods it must not push others out.
const MAX_SILENT: usize = 64;

/// What a connection becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// A vGPU of its own.
    Own,
    /// The same, of this name if that is free.
    Named(String),
    /// One of this vGPU's.
    Of(String),
}

impl Door {
    /// True if who floods the one floods the other: whoever hands over may choose names.
    fn is_beside(&self, other: &Door) -> bool {
        self == other || matches!((self, other), (Door::Named(_), Door::Named(_)))
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) door: Door,
    since: SystemTime,
    peer: Option<(i32, u32)>,
    /// None until it says something: before that, it may only ask whether somebody listens.
    served: Option<Served>,
    /// What handed it over, if something did.
    launcher: Option<Box<Tie>>,
}

/// A connection that comes.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: UnixStream,
    pub(super) door: Door,
    pub(super) launcher: Option<Box<Tie>>,
}

impl Arrival {
    /// One that nobody handed over.
    pub(super) fn at(door: Door, stream: UnixStream) -> Arrival {
        Arrival { stream, door, launcher: None }
    }
}

/// A connection that is a vGPU's.
#[derive(Debug)]
struct Served {
    name: String,
    vgpu: VgpuId,
    place: u32,
    orders: Arc<Orders>,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Connections {
    all: BTreeMap<u64, Connection>,
    next: u64,
    most: usize,
}

impl Connections {
    /// None yet, and never more than `most`.
    pub(super) fn new(most: usize) -> Connections {
        Connections { all: BTreeMap::new(), next: 0, most }
    }

    /// Takes a new one. If there are too many, the one that has been silent longest makes room: first of all one at the
    /// same door.
    pub(super) fn add(&mut self, arrival: Arrival) -> Result<u64, Arrival> {
        let at_door: Vec<u64> = self
            .silent()
            .filter(|(_, other)| other.door.is_beside(&arrival.door))
            .map(|(id, _)| id)
            .collect();
        let oldest = self.silent().next().map(|(id, _)| id);
        let leaves = if at_door.len() >= MAX_SILENT || self.all.len() >= self.most {
            match at_door.first().copied().or(oldest) {
                Some(silent) => Some(silent),
                None => return Err(arrival),
            }
        } else {
            None
        };
        if let Some(silent) = leaves {
            self.all.remove(&silent);
        }
        let Arrival { stream, door, launcher } = arrival;
        // Of a socket that is handed over, the kernel only knows who made it.
        let peer = match &launcher {
            Some(launcher) => launcher.peer,
            None => getsockopt(&stream, PeerCredentials).ok().map(|peer| (peer.pid(), peer.uid())),
        };
        let id = self.next;
        self.next += 1;
        let since = SystemTime::now();
        self.all.insert(id, Connection { stream, door, since, peer, served: None, launcher });
        Ok(id)
    }

    /// Those that have said nothing yet, the oldest first.
    pub(super) fn silent(&self) -> impl Iterator<Item = (u64, &Connection)> {
        let silent = self.all.iter().filter(|(_, connection)| connection.served.is_none());
        silent.map(|(id, connection)| (*id, connection))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn get(&self, id: u64) -> Option<&Connection> {
        self.all.get(&id)
    }

    pub(super) fn of(&self, vgpu: VgpuId) -> impl Iterator<Item = &Connection> {
        let is_of = move |served: &Served| served.vgpu == vgpu;
        self.all.values().filter(move |connection| connection.served.as_ref().is_some_and(is_of))
    }

    /// The lowest number that no connection of the vGPU has, if it may have another one.
    pub(super) fn free_place(&self, vgpu: VgpuId, most: u32) -> Option<u32> {
        let taken: Vec<u32> = self.of(vgpu).filter_map(|one| Some(one.served.as_ref()?.place)).collect();
        let room = taken.len() < most as usize;
        room.then(|| (0..).find(|place| !taken.contains(place))).flatten()
    }

    /// It is a vGPU's from now on.
    pub(super) fn serve(&mut self, id: u64, name: &str, vgpu: VgpuId, place: u32, orders: Arc<Orders>) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.served = Some(Served { name: name.to_owned(), vgpu, place, orders });
        }
    }

    /// Those that launchers handed over.
    pub(super) fn launchers(&self) -> impl Iterator<Item = (u64, &Tie)> {
        self.all.iter().filter_map(|(id, connection)| Some((*id, connection.launcher.as_deref()?)))
    }

    /// True if the connection's launcher has ended.
    pub(super) fn launcher_is_gone(&self, id: u64) -> bool {
        let launcher = self.all.get(&id).and_then(|connection| connection.launcher.as_deref());
        launcher.is_some_and(Tie::is_cut)
    }

    /// Ends one, in the middle of a message if need be; gives the name under which it is served.
    pub(super) fn hang_up(&mut self, id: u64) -> Option<String> {
        let connection = self.all.get_mut(&id)?;
        connection.launcher = None;
        let _gone = rustix::net::shutdown(connection.stream.as_fd(), rustix::net::Shutdown::Both);
        match &connection.served {
            Some(served) => Some(served.name.clone()),
            None => self.all.remove(&id).and(None),
        }
    }

    /// It is not served.
    pub(super) fn refuse(&mut self, id: u64, reason: &str) {
        if let Some(Connection { launcher: Some(launcher), .. }) = self.all.get_mut(&id) {
            launcher.refuse(reason);
        }
        self.all.remove(&id);
    }

    /// It is over. Says which vGPU's it was.
    pub(super) fn remove(&mut self, id: u64) -> Option<VgpuId> {
        self.all.remove(&id)?.served.map(|served| served.vgpu)
    }

    /// Drops those that have said nothing and would become a vGPU's.
    pub(super) fn drop_silent(&mut self, vgpu: &str) {
        let door = Door::Of(vgpu.to_owned());
        self.all.retain(|_, connection| connection.served.is_some() || connection.door != door);
    }

    /// Orders something of all connections of a vGPU; says how many there are.
    pub(super) fn order(&self, vgpu: VgpuId, order: &Order) -> usize {
        let orders = self.of(vgpu).filter_map(|connection| Some(&connection.served.as_ref()?.orders));
        orders.map(|orders| orders.give(order.clone())).count()
    }

    /// What there is to see of a vGPU's connections.
    pub(super) fn view(&self, vgpu: VgpuId) -> Vec<ConnectionView> {
        let view = |connection: &Connection| {
            Some(ConnectionView {
                name: connection.served.as_ref()?.name.clone(),
                pid: connection.peer.map(|(pid, _)| pid).filter(|pid| *pid > 0),
                uid: connection.peer.map(|(_, uid)| uid),
                since: connection.since,
            })
        };
        self.of(vgpu).filter_map(view).collect()
    }

    /// Ends those that are served, in the middle of a message if need be, and forgets the others.
    pub(super) fn shut_down(&mut self) {
        self.all.retain(|_, connection| connection.served.is_some());
        for connection in self.all.values() {
            let _gone = rustix::net::shutdown(connection.stream.as_fd(), rustix::net::Shutdown::Read);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_again_and_silent_connections_make_room() {
        let mut connections = Connections::new(3);
        let mut open = Vec::new();
        let mut add = |connections: &mut Connections| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            open.push(ours);
            connections.add(Arrival::at(Door::Own, theirs))
        };
        let vgpu = VgpuId(7);
        let serve = |connections: &mut Connections, id, place| {
            connections.serve(id, "x", vgpu, place, Arc::new(Orders::new().unwrap()));
        };
        let ids: Vec<u64> = (0..3).map(|_| add(&mut connections).unwrap()).collect();
        serve(&mut connections, ids[0], 0);
        assert_eq!(connections.free_place(vgpu, 2), Some(1));
        serve(&mut connections, ids[2], 1);
        assert_eq!(connections.free_place(vgpu, 2), None);
        // Of those that are served none goes.
        let fourth = add(&mut connections).unwrap();
        assert!(connections.get(ids[1]).is_none() && connections.get(ids[0]).is_some());
        serve(&mut connections, fourth, 2);
        assert!(add(&mut connections).is_err());
        assert_eq!(connections.remove(ids[0]), Some(vgpu));
        assert_eq!(connections.free_place(vgpu, 3), Some(0));
    }

    #[test]
    fn who_floods_one_socket_pushes_nobody_out_at_another() {
        let mut connections = Connections::new(MAX_SILENT + 10);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut add = |door: Door| connections.add(Arrival::at(door, ours.try_clone().unwrap())).unwrap();
        let other = add(Door::Own);
        for _ in 0..2 * MAX_SILENT {
            add(Door::Of("flooded".to_owned()));
        }
        assert!(connections.get(other).is_some());
        assert_eq!(connections.len(), MAX_SILENT + 1);
    }
}
