//! The daemon's main thread: accepts connections, carries changes out, waits for sessions and for signals.

mod handed;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use log::{Level, debug, error, info, warn};
use paragpu_protocol::limits::MAX_DEVICES;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::connections::{Arrival, Connections, Door, MAX_CONNECTIONS};
use super::doors::{Doors, Own};
use super::hand_over::desk::Desk;
use super::setup::{self, Setup};
use super::signals::signal_socket;
use super::socket::OwnedListener;
use super::{Options, view};
use crate::config::{
    Config, Problems, Quota, SandboxSettings, Settings, SharedDevice, check_against_host, devices_of,
};
use crate::executor::confinement::Confinement;
use crate::executor::supervisor::cgroup::{CgroupLimits, Cgroups};
use crate::executor::supervisor::{Launcher, ProcessLauncher, SharedBuilds, probe, remove_abandoned};
use crate::guest_log::GuestLog;
use crate::limits::Limits;
use crate::registry::mailbox::{Inbox, Request};
use crate::registry::{Change, Origin, Refusal, Registry, Steps};
use crate::sched::policy::Sharing;
use crate::sched::{Scheduler, Seat, VgpuId};
use crate::vhost::event_loop;
use crate::vhost::orders::{Assignment, Order, Orders};

/// Time that sessions have for ending when the daemon ends; executors die with it in any case.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What devices are called where the configuration names none: by their number in the chosen platform.
const UNNAMED_DEVICE: &str = "device";

/// What woke the main thread.
#[derive(Clone, Debug)]
enum Source {
    Signal,
    Hangup,
    Ended,
    Inbox,
    Stdin,
    OwnDoor,
    Door(PathBuf),
    /// A connection that has said nothing yet.
    Silent(u64),
    HandOverDoor,
    /// A launcher that has said nothing yet.
    Waiting(u64),
    /// The launcher of this connection.
    Launcher(u64),
}

/// The main thread's.
pub(super) struct Server {
    launcher: ProcessLauncher,
    scheduler: Arc<Scheduler>,
    /// What is shared, by the scheduler's numbers.
    devices: Vec<SharedDevice>,
    registry: Registry,
    ids: BTreeMap<String, VgpuId>,
    /// vGPUs that are removed, but for their connections.
    retired: BTreeSet<VgpuId>,
    /// What executors of vGPUs leave for the next ones, where the operator wants that.
    shared_builds: BTreeMap<VgpuId, Arc<SharedBuilds>>,
    doors: Doors,
    connections: Connections,
    desk: Desk,
    inbox: Inbox,
    config_file: Option<PathBuf>,
    config: Config,
    prefix: String,
    /// Number of the next connection that becomes a vGPU of its own.
    number: u64,
    log: GuestLog,
    signals: UnixStream,
    hangups: Option<UnixStream>,
    until_stdin_ends: bool,
    /// Readable for ever once the daemon ends.
    exit: Arc<OwnedFd>,
    /// Written to when a session ends.
    ended_event: Arc<OwnedFd>,
    ended: Receiver<u64>,
    ended_sender: Sender<u64>,
}

impl Server {
    pub(super) fn new(
        options: &Options,
        setup: &Setup,
        inbox: Inbox,
        exit: Arc<OwnedFd>,
    ) -> anyhow::Result<Server> {
        let signals = signal_socket(&[SIGTERM, SIGINT])?;
        // Without a file to read again, a hang-up ends the daemon as ever.
        let hangups = options.config.as_ref().map(|_| signal_socket(&[SIGHUP])).transpose()?;
        // Guests need not wait for it: what executors left may be large. If it does not run now, the next daemon's does.
        let _later = thread::Builder::new().name("abandoned".to_owned()).spawn(remove_abandoned);
        let config = setup.config.clone();
        let launcher = launcher(options, &config)?;
        let devices = devices(&config, options.config.as_deref(), &launcher)?;
        let sharing = devices.iter().map(|device| (device.name.clone(), device.sharing)).collect();
        let scheduler = Arc::new(Scheduler::start(sharing).context("scheduler")?);
        let beside = [&setup.admin, &setup.hand_over].into_iter().flatten();
        let reserved = beside.map(|beside| beside.socket.path.clone()).chain(setup.socket.clone()).collect();
        let (ended_sender, ended) = channel();
        let mut server = Server {
            launcher,
            scheduler,
            registry: Registry::new(
                if config.devices.is_empty() { Vec::new() } else { devices.clone() },
                config.default.clone(),
                reserved,
            ),
            devices,
            ids: BTreeMap::new(),
            retired: BTreeSet::new(),
            shared_builds: BTreeMap::new(),
            doors: Doors::default(),
            connections: Connections::new(MAX_CONNECTIONS),
            desk: Desk::default(),
            inbox,
            config_file: options.config.clone(),
            config: config.clone(),
            prefix: options.name.clone(),
            number: 0,
            log: GuestLog::new("paragpud"),
            signals,
            hangups,
            until_stdin_ends: options.until_stdin_ends,
            exit,
            ended_event: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            ended,
            ended_sender,
        };
        server.change(Change::Reload(Box::new(config)))?;
        Ok(server)
    }

    /// What shares the devices.
    pub(super) fn scheduler(&self) -> Arc<Scheduler> {
        Arc::clone(&self.scheduler)
    }

    /// Serves everything that comes, until a signal. Each connection to `own` becomes a vGPU of its own.
    pub(super) fn run(mut self, own: Option<Own>, hand_over: Option<OwnedListener>) -> anyhow::Result<()> {
        if let Some(own) = &own {
            own.listener().set_nonblocking(true).context("listening socket")?;
        }
        self.doors.own = own;
        self.doors.hand_over = hand_over;
        while !self.turn()? {}
        self.end();
        Ok(())
    }

    /// Serves one connection until it ends.
    pub(super) fn serve_one(mut self, stream: UnixStream) -> anyhow::Result<()> {
        self.take_connection(Arrival::at(Door::Own, stream));
        while !self.connections.is_empty() && !self.turn()? {}
        self.end();
        Ok(())
    }

    /// Waits for something and does what it asks for. True if the daemon is to end.
    fn turn(&mut self) -> anyhow::Result<bool> {
        for source in self.wait()? {
            match source {
                Source::Signal | Source::Stdin => {
                    info!("ending");
                    return Ok(true);
                }
                Source::Hangup => self.reload(),
                Source::Ended => self.forget_ended(),
                Source::Inbox => self.answer(),
                Source::OwnDoor => self.accept(None),
                Source::Door(path) => self.accept(Some(path)),
                Source::Silent(id) => self.first_word(id),
                Source::HandOverDoor => self.accept_launcher(),
                Source::Waiting(id) => self.take_over(id),
                Source::Launcher(id) => self.launcher_stirs(id),
            }
        }
        Ok(false)
    }

    fn wait(&self) -> anyhow::Result<Vec<Source>> {
        let stdin = io::stdin();
        let mut sources = vec![
            (Source::Signal, self.signals.as_fd()),
            (Source::Ended, self.ended_event.as_fd()),
            (Source::Inbox, self.inbox.event()),
        ];
        sources.extend(self.hangups.as_ref().map(|hangups| (Source::Hangup, hangups.as_fd())));
        sources.extend(self.until_stdin_ends.then(|| (Source::Stdin, stdin.as_fd())));
        sources.extend(self.doors.own.as_ref().map(|own| (Source::OwnDoor, own.listener().as_fd())));
        let doors = self.doors.vgpus();
        sources.extend(doors.map(|(path, listener)| (Source::Door(path.clone()), listener.as_fd())));
        let silent = self.connections.silent();
        sources.extend(silent.map(|(id, connection)| (Source::Silent(id), connection.stream.as_fd())));
        let hand_over = self.doors.hand_over.as_ref();
        sources.extend(hand_over.map(|door| (Source::HandOverDoor, door.listener().as_fd())));
        sources.extend(self.desk.waiting().map(|(id, tie)| (Source::Waiting(id), tie.as_fd())));
        sources.extend(self.connections.launchers().map(|(id, tie)| (Source::Launcher(id), tie.as_fd())));
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("poll"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(sources
            .into_iter()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|((source, _), _)| source)
            .collect())
    }

    fn accept(&mut self, path: Option<PathBuf>) {
        let door = match &path {
            None => Some(Door::Own),
            Some(path) => self.registry.at_socket(path).map(|name| Door::Of(name.to_owned())),
        };
        let listener: Option<&UnixListener> = match &path {
            None => self.doors.own.as_ref().map(Own::listener),
            Some(path) => self.doors.vgpus().find(|(found, _)| *found == path).map(|(_, listener)| listener),
        };
        // A change in this very turn may have closed it.
        let (Some(door), Some(listener)) = (door, listener) else { return };
        match listener.accept() {
            Ok((stream, _)) => self.take_connection(Arrival::at(door, stream)),
            Err(error) => self.not_accepted(&error),
        }
    }

    fn not_accepted(&mut self, error: &io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock {
            self.log.line(Level::Warn, format_args!("cannot accept a connection: {error}"));
            // Out of descriptors, most likely: better later than a busy loop.
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn take_connection(&mut self, arrival: Arrival) {
        if let Err(arrival) = self.connections.add(arrival) {
            let reason = format!("{MAX_CONNECTIONS} connections are served already");
            self.log.line(Level::Warn, format_args!("connection refused: {reason}"));
            if let Some(mut launcher) = arrival.launcher {
                launcher.refuse(&reason);
            }
        }
    }

    /// A connection says something, or ends. One that ends before it says anything only asked whether somebody
    /// listens, and is no vGPU.
    fn first_word(&mut self, id: u64) {
        let Some(connection) = self.connections.get(id) else { return };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&connection.stream, &mut [0_u8; 1], flags) {
            Ok((1.., _)) => {
                if let Err(reason) = self.start_session(id) {
                    self.log.line(Level::Warn, format_args!("connection refused: {reason}"));
                    self.connections.refuse(id, &reason);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            _ => {
                debug!("a connection ended without a word");
                self.connections.remove(id);
            }
        }
    }

    fn start_session(&mut self, id: u64) -> Result<(), String> {
        let connection = self.connections.get(id).ok_or("it ended")?;
        let stream = connection.stream.try_clone().map_err(|error| error.to_string())?;
        stream.set_nonblocking(false).map_err(|error| error.to_string())?;
        let orders = Arc::new(Orders::new().map_err(|error| error.to_string())?);
        let name = match connection.door.clone() {
            Door::Of(name) => name,
            own @ (Door::Own | Door::Named(_)) => {
                let next = match own {
                    Door::Named(name) => self.registry.with_named(&name),
                    _ => self.registry.with_connection(&self.prefix, &mut self.number),
                };
                let (next, name) = next.map_err(|problems| problems.to_string())?;
                let vgpu = self.enrol(&next, &name).map_err(|refusal| refusal.to_string())?;
                self.ids.insert(name.clone(), vgpu);
                self.registry = next;
                name
            }
        };
        let vgpu = self.registry.vgpus().get(&name).zip(self.ids.get(&name));
        let Some((vgpu, vgpu_id)) = vgpu else { return Err(format!("vGPU {name} is gone")) };
        let most = vgpu.settings.connections;
        let place = self.connections.free_place(*vgpu_id, most);
        let place = place.ok_or_else(|| format!("vGPU {name} may have {most} connections, and has them"))?;
        let devices = || devices_of(&vgpu.settings, &self.devices);
        let assignment = Assignment {
            devices: devices().filter_map(|device| device.choice.clone()).collect(),
            limits: self.limits(&vgpu.settings),
            name: if place == 0 { name } else { format!("{name}#{place}") },
            seat: Some(Seat::new(self.scheduler.clone(), *vgpu_id)),
            orders: orders.clone(),
        };
        self.connections.serve(id, &assignment.name, *vgpu_id, place, orders);
        let shared = vgpu.settings.share_builds;
        let shared = shared.then(|| self.shared_builds.entry(*vgpu_id).or_default().clone());
        let launcher = self.launcher.limited(cgroup_limits(&vgpu.settings)).sharing(shared);
        let launcher = Arc::new(launcher);
        let exit = self.exit.clone();
        let ended = Ended { id, event: self.ended_event.clone(), sender: self.ended_sender.clone() };
        let session = move || {
            // Reports the end even of a session that panics.
            let _ended = ended;
            event_loop::serve(&assignment, stream, launcher, exit.as_fd());
        };
        // The executor is tied to the life of this thread.
        let spawned = thread::Builder::new().name(format!("session{id}")).spawn(session);
        if let Err(error) = spawned {
            // What was to run has said that it ended when it was dropped.
            warn!("connection refused: no thread for it: {error}");
        }
        Ok(())
    }

    fn forget_ended(&mut self) {
        let _counter = rustix::io::read(&*self.ended_event, &mut [0_u8; 8]);
        while let Ok(id) = self.ended.try_recv() {
            let Some(vgpu) = self.connections.remove(id) else { continue };
            if self.connections.of(vgpu).next().is_some() {
                continue;
            }
            if self.retired.remove(&vgpu) {
                self.scheduler.remove(vgpu);
                continue;
            }
            let name = self.ids.iter().find(|(_, id)| **id == vgpu).map(|(name, _)| name.clone());
            let is_connection = |name: &String| {
                self.registry.vgpus().get(name).is_some_and(|vgpu| vgpu.origin == Origin::Connection)
            };
            if let Some(name) = name.filter(is_connection)
                && let Err(error) = self.change(Change::Remove(name))
            {
                error!("a vGPU that ended stays: {error}");
            }
        }
    }

    fn answer(&mut self) {
        for request in self.inbox.take() {
            // Whoever asked may have stopped waiting.
            match request {
                Request::Change(change, answer) => drop(answer.try_send(self.change(change))),
                Request::Kill(name, answer) => drop(answer.try_send(self.kill(name))),
                Request::View(answer) => {
                    let (names, counted) = (&self.ids, &self.scheduler);
                    let named = !self.config.devices.is_empty();
                    let view =
                        view::view(&self.registry, names, &self.connections, counted, &self.devices, named);
                    drop(answer.try_send(Ok(view)));
                }
            }
        }
    }

    fn kill(&self, name: String) -> Result<usize, Refusal> {
        let Some(id) = self.ids.get(&name) else {
            return Err(Refusal::NoVgpu(name, self.ids.keys().take(20).cloned().collect()));
        };
        info!("{name}: its executors are killed on an operator's order");
        Ok(self.connections.order(*id, &Order::KillExecutor("an operator wants it".to_owned())))
    }

    /// Changes something, as a whole or not at all.
    fn change(&mut self, change: Change) -> Result<(), Refusal> {
        let (next, steps) = self.registry.after(change)?;
        self.refuse_other_devices(&steps)?;
        let enrolled = self.enrol_all(&next, &steps)?;
        let prepared = self.doors.prepare(&steps).inspect_err(|_| self.forget(&enrolled))?;
        // From here on nothing fails.
        self.doors.commit(prepared, &steps);
        for name in &steps.remove {
            self.unschedule(name);
            // Of one that was a connection, the session's end has been told.
            if self.registry.vgpus().get(name).is_some_and(|vgpu| vgpu.socket.is_some()) {
                info!("{name}: removed");
            }
        }
        self.registry = next;
        for name in &steps.other_devices {
            // To the scheduler it is another vGPU, on other devices.
            self.unschedule(name);
        }
        self.ids.extend(enrolled);
        for name in steps.add.iter().chain(&steps.set) {
            self.warn_of_per_cent(name);
        }
        for name in &steps.add {
            if let Some(socket) = self.registry.vgpus().get(name).and_then(|vgpu| vgpu.socket.as_ref()) {
                info!("{name}: a vGPU at {}", socket.path.display());
            }
        }
        for name in &steps.set {
            let Some((vgpu, id)) = self.registry.vgpus().get(name).zip(self.ids.get(name)) else { continue };
            info!("{name}: its settings are others now");
            self.scheduler.set_terms(*id, vgpu.settings.terms);
            if !vgpu.settings.share_builds {
                remove_elsewhere(self.shared_builds.remove(id));
            }
            self.connections.order(*id, &Order::Limits(self.limits(&vgpu.settings)));
        }
        for (name, paused) in &steps.pause {
            let Some(id) = self.ids.get(name) else { continue };
            info!("{name}: {}", if *paused { "paused" } else { "resumed" });
            self.scheduler.set_paused(*id, *paused);
        }
        Ok(())
    }

    /// A guest that is connected has seen its devices: they cannot be others from one moment to the next.
    fn refuse_other_devices(&self, steps: &Steps) -> Result<(), Refusal> {
        let is_connected =
            |name: &&String| self.ids.get(*name).is_some_and(|id| self.connections.of(*id).next().is_some());
        let Some(name) = steps.other_devices.iter().find(is_connected) else { return Ok(()) };
        let message = "its guest is connected, and knows the devices that it has: wait until nobody is connected, or \
                       remove the vGPU and add it anew";
        Err(Problems::one(format!("vgpu.{name}.devices"), message).into())
    }

    /// Adds to the scheduler what a change adds; if one cannot be added, none is.
    fn enrol_all(&self, next: &Registry, steps: &Steps) -> Result<BTreeMap<String, VgpuId>, Refusal> {
        let mut enrolled = BTreeMap::new();
        for name in steps.add.iter().chain(&steps.other_devices) {
            let vgpu = self.enrol(next, name).inspect_err(|_| self.forget(&enrolled))?;
            enrolled.insert(name.clone(), vgpu);
        }
        Ok(enrolled)
    }

    fn enrol(&self, registry: &Registry, name: &str) -> Result<VgpuId, Refusal> {
        let vgpu = registry.vgpus().get(name).ok_or_else(|| Refusal::NoVgpu(name.to_owned(), Vec::new()))?;
        let may_use = |device: &SharedDevice| {
            vgpu.settings.devices.is_empty() || vgpu.settings.devices.contains(&device.name)
        };
        let numbers = self.devices.iter().enumerate().filter(|(_, device)| may_use(device));
        let devices: Vec<usize> = numbers.map(|(number, _)| number).collect();
        let id = self.scheduler.add(name, vgpu.settings.terms, &devices);
        let id =
            id.map_err(|error| Refusal::Host(format!("{name}: the scheduler has no room for it: {error}")))?;
        if vgpu.paused {
            self.scheduler.set_paused(id, true);
        }
        Ok(id)
    }

    /// What a vGPU's sessions hold it to.
    fn limits(&self, settings: &Settings) -> Limits {
        settings.session_limits(
            devices_of(settings, &self.devices).filter_map(|device| device.memory_bytes).min(),
        )
    }

    fn forget(&self, enrolled: &BTreeMap<String, VgpuId>) {
        enrolled.values().for_each(|vgpu| self.scheduler.remove(*vgpu));
    }

    fn warn_of_per_cent(&self, name: &str) {
        if self.devices.iter().any(|device| device.memory_bytes.is_some()) {
            return;
        }
        let memory = self.registry.vgpus().get(name).and_then(|vgpu| vgpu.settings.memory);
        if let Some(Quota::PerCent(part)) = memory {
            warn!(
                "{name}: memory = \"{part}%\" is not held: how much a device has is not known; say it in bytes"
            );
        }
    }

    fn unschedule(&mut self, name: &str) {
        self.connections.drop_silent(name);
        let Some(id) = self.ids.remove(name) else { return };
        remove_elsewhere(self.shared_builds.remove(&id));
        if self.connections.order(id, &Order::End) == 0 {
            self.scheduler.remove(id);
        } else {
            self.retired.insert(id);
        }
    }

    /// Reads the configuration file again. If anything is wrong with it, everything stays as it is.
    fn reload(&mut self) {
        let (Some(file), Some(hangups)) = (&self.config_file, &self.hangups) else { return };
        let _bytes = recv(hangups, &mut [0_u8; 64], RecvFlags::DONTWAIT);
        let config = match setup::read(file) {
            Ok(config) => config,
            Err(mistakes) => {
                for line in format!("{mistakes:#}").lines() {
                    error!("{line}");
                }
                return error!("the configuration stays as it was");
            }
        };
        for key in setup::unchangeable(&self.config, &config) {
            warn!("{}: {key} is another now, which counts from the next start on", file.display());
        }
        match self.change(Change::Reload(Box::new(config))) {
            Ok(()) => info!("the configuration is read again"),
            Err(error) => error!("the configuration stays as it was: {error}"),
        }
    }

    /// Ends every session, and waits for them a little.
    fn end(mut self) {
        // First, so that no front end connects again to a daemon that ends.
        self.doors = Doors::default();
        let _full = rustix::io::write(&*self.exit, &1_u64.to_ne_bytes());
        let until = Instant::now() + END_TIMEOUT;
        self.connections.shut_down();
        while !self.connections.is_empty() {
            match self.ended.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(id) => self.connections.remove(id),
                Err(_) => {
                    debug!("{} sessions did not end in time", self.connections.len());
                    return;
                }
            };
        }
    }
}

/// What starts executors, confined as the options and the configuration say.
fn launcher(options: &Options, config: &Config) -> anyhow::Result<ProcessLauncher> {
    let SandboxSettings { read, devices, system_calls, address_space } = config.sandbox.clone();
    let (sandbox, seccomp) = (options.sandbox, options.seccomp);
    let confinement = Confinement { sandbox, seccomp, read, devices, system_calls, address_space };
    let cgroups = match &options.cgroup {
        None => None,
        Some(path) => Cgroups::open(path)
            .inspect_err(|error| {
                log::warn!("--cgroup {}: {error}; executors are not limited", path.display());
            })
            .ok(),
    };
    Ok(ProcessLauncher::this_program(confinement)?.with_cgroups(cgroups))
}

/// What executors have left may take a while to remove.
fn remove_elsewhere(shared: Option<Arc<SharedBuilds>>) {
    if let Some(shared) = shared {
        // Without a thread, here.
        let _none = thread::Builder::new().name("remove".to_owned()).spawn(move || drop(shared));
    }
}

fn cgroup_limits(settings: &Settings) -> CgroupLimits {
    let (memory_bytes, tasks) = (settings.limits.executor_memory, settings.limits.processes.map(u64::from));
    CgroupLimits { memory_bytes, tasks, cpu_percent: settings.limits.executor_cpu }
}

/// The devices that are shared. The host is asked only if the configuration depends on what it has: that takes a while, and
/// a daemon without a configuration starts whether or not there is a device.
fn devices(
    config: &Config,
    file: Option<&Path>,
    launcher: &dyn Launcher,
) -> anyhow::Result<Vec<SharedDevice>> {
    let is_part = |settings: &Settings| matches!(settings.memory, Some(Quota::PerCent(_)));
    let parts = is_part(&config.default) || config.vgpus.iter().any(|vgpu| is_part(&vgpu.settings));
    let mut known = Vec::new();
    if parts || !config.devices.is_empty() {
        let host = probe(launcher).context("the configuration depends on the host's devices")?;
        let file = file.unwrap_or(Path::new("configuration"));
        known = check_against_host(config, &host)
            .map_err(|problems| anyhow::anyhow!(problems.in_file(file).join("\n")))?;
    }
    if !config.devices.is_empty() {
        return Ok(known);
    }
    let unnamed = |index: usize| SharedDevice {
        name: format!("{UNNAMED_DEVICE}{index}"),
        sharing: Sharing::default(),
        choice: None,
        memory_bytes: known.get(index).and_then(|device| device.memory_bytes),
    };
    Ok((0..MAX_DEVICES).map(unnamed).collect())
}

/// Tells the main thread, when dropped, that a session ended.
struct Ended {
    id: u64,
    event: Arc<OwnedFd>,
    sender: Sender<u64>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _main_thread_ended = self.sender.send(self.id);
        let _full = rustix::io::write(&*self.event, &1_u64.to_ne_bytes());
    }
}
