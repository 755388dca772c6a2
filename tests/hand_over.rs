//! Does a paragpud that libvirt starts for one VM hand it over to the host's daemon, and live as long as the VM?

// This file's daemons have configurations; of the other helpers it uses what programs need.
mod common;
mod configured;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use common::{example, kill, paragpu, succeeds};
use configured::{Daemon, is_served, wait_until};
use paragpu::executor::channel::Channel;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use vhost::VhostBackend;
use vhost::vhost_user::Frontend;

const CONFIG: &str = r#"
hand-over = "DIR/hand-over.sock"
[default]
weight = 7
[[vgpu]]
name = "web"
socket = "DIR/web.sock"
weight = 200
connections = 1
"#;

/// The messages, as a launcher of another build would have them.
#[derive(Serialize)]
enum ToDaemon {
    Take { version: u32, vm: VmName },
}

#[derive(Serialize)]
enum VmName {
    Unknown,
    Whole(String),
}

#[derive(Debug, PartialEq, Deserialize)]
enum ToLauncher {
    Taken,
    Refused { reason: String },
    Ended,
}

/// Starts paragpud as libvirt does, for a VM of this name, through a shell that gives it descriptors.
fn launcher(vm: impl Into<OwnedFd>, hand_over: &Path, pidfile: &Path) -> Child {
    File::create(pidfile).unwrap();
    let script = r#"exec "$0" --fd 5 --virgl --hand-over "$1" 5<&0 6<"$2" </dev/null"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_paragpud")]).arg(hand_over).arg(pidfile);
    shell.stdin(vm.into()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A VM of this name whose launcher hands it over.
fn vm(daemon: &Daemon, name: &str) -> (Frontend, Child) {
    let (stream, launcher) = silent_vm(daemon, name);
    (Frontend::from_stream(stream, 2), launcher)
}

fn silent_vm(daemon: &Daemon, name: &str) -> (UnixStream, Child) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let pidfile = daemon.at(&format!("1-{name}-video0-vhost-user-gpu.pid"));
    let launcher = launcher(theirs, &daemon.at("hand-over.sock"), &pidfile);
    (ours, launcher)
}

fn speak(front_end: &Frontend) {
    front_end.set_owner().unwrap();
    assert_ne!(front_end.get_features().unwrap(), 0);
}

/// The launcher's log, once it has ended; and whether it ended well.
fn end_of(mut launcher: Child) -> (bool, String) {
    let mut log = String::new();
    launcher.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (launcher.wait().unwrap().success(), log)
}

#[test]
fn what_is_handed_over_computes() {
    let daemon = Daemon::start(CONFIG);
    let door = daemon.at("door");
    let listener = UnixListener::bind(&door).unwrap();
    let (hand_over, pidfile) = (daemon.at("hand-over.sock"), daemon.at("3-demo-video0-vhost-user-gpu.pid"));
    // Each connection of the program is a VM's.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut launcher = launcher(stream.unwrap(), &hand_over, &pidfile);
            thread::spawn(move || launcher.wait());
        }
    });
    let mut program = paragpu();
    program.arg("run").arg("--socket").arg(&door).arg("--").arg(example("vgpu_check"));
    let output = succeeds(program.args(["--only", "vector addition"]));
    assert!(output.contains(" passed, 0 failed"), "{output}");
    assert!(daemon.log().contains("vm-demo: connected"), "{}", daemon.log());
}

#[test]
fn a_vm_is_the_vgpu_of_its_name_or_one_of_its_own_within_the_defaults() {
    let daemon = Daemon::start(CONFIG);
    let (web, mut web_launcher) = vm(&daemon, "web");
    let (db, mut db_launcher) = vm(&daemon, "my db");
    speak(&web);
    speak(&db);
    assert_eq!(daemon.names(), ["vm-my_db", "web"]);
    assert_eq!(daemon.connections("web"), 1);
    let shown = daemon.get("/v1/vgpus/vm-my_db");
    assert_eq!(shown["settings"]["weight"], 7);
    assert_eq!(shown["connections"][0]["pid"], db_launcher.id());
    // A name that libvirt cuts proves nothing.
    let (long, mut long_launcher) = vm(&daemon, "a-name-of-20-letters");
    speak(&long);
    assert!(daemon.names().contains(&"vm-a-name-of-20-letters".to_owned()));
    // The vGPU has the connections that it may have; the launcher says so.
    let (refused, launcher) = vm(&daemon, "web");
    assert!(refused.set_owner().and_then(|()| refused.get_features()).is_err());
    let (success, log) = end_of(launcher);
    assert!(!success && log.contains("refuses: vGPU web may have 1 connections"), "{log}");
    assert!(is_served(&web));
    for launcher in [&mut web_launcher, &mut db_launcher, &mut long_launcher] {
        launcher.kill().unwrap();
        launcher.wait().unwrap();
    }
}

#[test]
fn the_session_ends_with_its_launcher_and_the_launcher_with_its_session() {
    let daemon = Daemon::start(CONFIG);
    let (killed, mut launcher) = vm(&daemon, "killed");
    let (other, other_launcher) = vm(&daemon, "other");
    speak(&killed);
    speak(&other);
    kill(launcher.id());
    launcher.wait().unwrap();
    wait_until("the session's end", || !daemon.names().contains(&"vm-killed".to_owned()));
    assert!(!is_served(&killed) && is_served(&other));
    drop(other);
    let (success, log) = end_of(other_launcher);
    assert!(success && log.contains("handed over") && log.contains("the session ended"), "{log}");
    wait_until("the session's end", || daemon.names() == ["web"]);

    // Also a VM that never says anything.
    let (mut silent, mut launcher) = silent_vm(&daemon, "silent");
    wait_until("the hand-over", || daemon.log().contains("vm-silent: handed over by process"));
    kill(launcher.id());
    launcher.wait().unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    let (silent, launcher) = silent_vm(&daemon, "silent");
    drop(silent);
    assert!(end_of(launcher).0);
}

#[test]
fn a_launcher_whose_daemon_is_killed_says_so() {
    let mut daemon = Daemon::start(CONFIG);
    let (front_end, launcher) = vm(&daemon, "demo");
    speak(&front_end);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let (success, log) = end_of(launcher);
    assert!(!success && log.contains("is gone: the VM's GPU does not work any more"), "{log}");
    assert!(!is_served(&front_end), "the launcher does not keep the VM waiting");

    let daemon = Daemon::start(CONFIG);
    let (front_end, launcher) = vm(&daemon, "demo");
    speak(&front_end);
    daemon.signal(Signal::TERM);
    assert!(end_of(launcher).0, "this is an end in order");
}

#[test]
fn without_a_daemon_the_launcher_serves_alone_unless_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let pidfile = directory.path().join("1-demo-video0-vhost-user-gpu.pid");
    let (ours, theirs) = UnixStream::pair().unwrap();
    let alone = launcher(theirs, Path::new("none"), &pidfile);
    speak(&Frontend::from_stream(ours, 2));
    let (success, log) = end_of(alone);
    assert!(success && log.contains("vgpu0: session ended"), "{log}");

    let (_ours, theirs) = UnixStream::pair().unwrap();
    let (success, log) = end_of(launcher(theirs, &directory.path().join("nowhere"), &pidfile));
    assert!(!success && log.contains("no paragpud takes VMs over at"), "{log}");
}

/// Says something to the hand-over socket, and gives the answers until it hangs up.
fn say(daemon: &Daemon, message: &ToDaemon, descriptors: &[BorrowedFd<'_>]) -> Vec<ToLauncher> {
    let channel = Channel::new(UnixStream::connect(daemon.at("hand-over.sock")).unwrap());
    channel.send(message, descriptors).unwrap();
    answers(&channel)
}

fn answers(channel: &Channel) -> Vec<ToLauncher> {
    std::iter::from_fn(|| channel.recv().ok().flatten()).map(|(answer, _)| answer).collect()
}

#[test]
fn what_a_hostile_launcher_hands_over_is_refused_and_harms_nobody() {
    let daemon = Daemon::start(CONFIG);
    let (bystander, mut launcher) = vm(&daemon, "web");
    speak(&bystander);
    let take = |version| ToDaemon::Take { version, vm: VmName::Whole("evil".to_owned()) };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let listener = UnixListener::bind(daemon.at("listener")).unwrap();
    let network = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let network = std::net::TcpStream::connect(network.local_addr().unwrap()).unwrap();
    let unconnected =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    let file = File::open("/dev/zero").unwrap();
    let refused = |message: &ToDaemon, descriptors: &[BorrowedFd<'_>], why: &str| {
        let answers = say(&daemon, message, descriptors);
        let [ToLauncher::Refused { reason }, ToLauncher::Ended] = answers.as_slice() else {
            panic!("{why}: {answers:?}");
        };
        assert!(reason.contains(why), "{reason}");
    };
    refused(&take(1), &[], "0 descriptors");
    refused(&take(1), &[theirs.as_fd(), ours.as_fd()], "2 descriptors");
    refused(&take(2), &[theirs.as_fd()], "version 2");
    for wrong in [datagram.as_fd(), listener.as_fd(), network.as_fd(), unconnected.as_fd(), file.as_fd()] {
        refused(&take(1), &[wrong], "no connected UNIX stream socket");
    }

    // Garbage, half a message, and nothing at all.
    let raw = || UnixStream::connect(daemon.at("hand-over.sock")).unwrap();
    for bytes in [&[0xff; 64][..], &[1, 0, 0, 0, 9], &[3, 0, 0, 0, 0, 1]] {
        let stream = raw();
        rustix::io::write(&stream, bytes).unwrap();
        let _end = stream.shutdown(std::net::Shutdown::Write);
        assert!(matches!(answers(&Channel::new(stream)).as_slice(), [ToLauncher::Refused { .. }, ..]));
    }
    let idle: Vec<UnixStream> = (0..100).map(|_| raw()).collect();

    // One at whose other end nobody speaks vhost-user: taken, and dropped at the first word.
    rustix::io::write(&ours, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let answered = say(&daemon, &take(1), &[theirs.as_fd()]);
    assert_eq!(answered, [ToLauncher::Taken, ToLauncher::Ended]);
    // The end of such a connection itself: nobody would ever hang up.
    refused(&take(1), &[raw().as_fd()], "connected to the hand-over socket");
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = Channel::new(raw());
    channel.send(&take(1), &[theirs.as_fd()]).unwrap();
    assert_eq!(channel.recv::<ToLauncher>().unwrap().unwrap().0, ToLauncher::Taken);
    channel.send(&take(1), &[channel.as_fd(), ours.as_fd()]).unwrap();
    drop((channel, ours, theirs));
    // One that says more than it should.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = Channel::new(raw());
    let unknown = ToDaemon::Take { version: 1, vm: VmName::Unknown };
    channel.send(&unknown, &[theirs.as_fd()]).unwrap();
    assert_eq!(channel.recv::<ToLauncher>().unwrap().unwrap().0, ToLauncher::Taken);
    channel.send(&unknown, &[theirs.as_fd()]).unwrap();
    assert_eq!(answers(&channel), [ToLauncher::Ended]);

    drop((idle, ours));
    assert!(is_served(&bystander));
    wait_until("nothing to be left", || daemon.names() == ["web"]);
    let (next, mut next_launcher) = vm(&daemon, "next");
    speak(&next);
    for launcher in [&mut launcher, &mut next_launcher] {
        launcher.kill().unwrap();
        launcher.wait().unwrap();
    }
    assert!(fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).unwrap().count() < 60);
}
