//! Do paragpud and `paragpu run` behave as those who start them expect?

mod common;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vhost::VhostBackend;
use vhost::vhost_user::Frontend;

fn daemon() -> Command {
    Command::new(env!("CARGO_BIN_EXE_paragpud"))
}

fn run(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paragpu"));
    // Any file will do for a driver: the programs here load none. No daemon of this machine is used.
    command.args(["run"]).args(arguments).env("PARAGPU_ICD", "/dev/../etc/hostname");
    command
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + common::PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(socket: &Path) -> Child {
    let child = daemon().arg("--socket-path").arg(socket).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the daemon listens", || UnixStream::connect(socket).is_ok());
    child
}

fn log_of(child: &mut Child) -> String {
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    log
}

fn speak(stream: UnixStream) {
    let front_end = Frontend::from_stream(stream, 2);
    front_end.set_owner().unwrap();
    assert_ne!(front_end.get_features().unwrap(), 0);
}

/// Starts the daemon through a shell, which gives it the socket as descriptor 5.
fn daemon_with_fd(socket: OwnedFd) -> Child {
    let script =
        r#"exec "$0" --fd 5 --hand-over none --virgl --render-node /dev/dri/renderD128 5<&0 </dev/null"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_paragpud")]);
    shell.stdin(socket).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_connected_descriptor_is_served_until_it_ends_and_a_listening_one_for_ever() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = daemon_with_fd(theirs.into());
    speak(ours);
    assert!(child.wait().unwrap().success());
    assert_eq!(log_of(&mut child).matches("session ended").count(), 1);

    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut child = daemon_with_fd(UnixListener::bind(&socket).unwrap().into());
    speak(UnixStream::connect(&socket).unwrap());
    speak(UnixStream::connect(&socket).unwrap());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn capabilities_are_the_json_that_libvirt_reads() {
    let output = daemon().arg("--print-capabilities").output().unwrap();
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // A host without render nodes would not start VMs if one was wanted.
    let has_nodes = std::fs::read_dir("/dev/dri")
        .into_iter()
        .flatten()
        .flatten()
        .any(|node| node.file_name().to_string_lossy().starts_with("renderD"));
    let features: &[&str] = if has_nodes { &["render-node", "virgl"] } else { &["virgl"] };
    assert_eq!(json, serde_json::json!({"type": "gpu", "features": features}));
}

#[test]
fn a_signal_ends_the_daemon_quickly_with_sessions_open_and_removes_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut child = start(&socket);
    speak(UnixStream::connect(&socket).unwrap());
    let idle = Frontend::from_stream(UnixStream::connect(&socket).unwrap(), 2);
    idle.set_owner().unwrap();
    // Half a message must not hold the daemon up.
    let half = UnixStream::connect(&socket).unwrap();
    rustix::io::write(&half, &[1, 0]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let before = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    assert!(!socket.exists());
    let log = log_of(&mut child);
    assert!(log.contains("session ended; commands: 0 by ring, 0 by virtqueue, 0 doorbells"), "{log}");
    // The probes of `start` were no vGPUs.
    assert!(log.contains("vgpu0: connected") && log.matches("session ended").count() == 3, "{log}");
}

#[test]
fn a_second_daemon_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut first = start(&socket);
    let second = daemon().arg("--socket-path").arg(&socket).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another program serves this socket"));
    assert!(socket.exists());
    first.kill().unwrap();
    first.wait().unwrap();
    let mut third = start(&socket);
    third.kill().unwrap();
    third.wait().unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[test]
fn a_program_gets_a_private_daemon_and_its_status_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"
        echo "$PARAGPU_TRANSPORT"; echo "$PARAGPU_SOCKET"; test -S "$PARAGPU_SOCKET" || exit 1
        cat "$OCL_ICD_VENDORS"/*; echo "${OCL_ICD_FILENAMES-unset}"; exit 7"#;
    let mut command = run(&["--", "sh", "-c", script]);
    command.env("XDG_RUNTIME_DIR", directory.path()).env("OCL_ICD_FILENAMES", "other.so");
    let output = output(&mut command);
    let lines: Vec<String> = text(&output.stdout).lines().map(Into::into).collect();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(lines[0], "direct");
    assert!(lines[2].starts_with('/') && lines[2].ends_with("/etc/hostname"));
    assert_eq!(lines[3], "unset");
    assert!(!Path::new(&lines[1]).exists(), "nothing is left");
}

#[test]
fn a_program_ends_as_its_signal_says_and_signals_are_passed_on() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut daemon = start(&socket);
    let killed = run(&["--socket", socket.to_str().unwrap(), "sh", "-c", "kill -KILL $$"]).output().unwrap();
    assert_eq!(killed.status.code(), Some(137));
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut waiting = run(&["--socket", socket.to_str().unwrap(), "--", "sh", "-c", script]);
    let mut waiting = waiting.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    waiting.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    kill_process(Pid::from_child(&waiting), Signal::TERM).unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(9));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(run(&["--", "/no/such/program"]).output().unwrap().status.code(), Some(127));
    assert_eq!(run(&["--", "/etc"]).output().unwrap().status.code(), Some(126));
    let nobody = run(&["--socket", socket.to_str().unwrap(), "true"]).output().unwrap();
    assert!(text(&nobody.stderr).contains("no daemon answers at"), "{nobody:?}");
    assert_eq!(nobody.status.code(), Some(125));
}

#[test]
fn output_that_nobody_takes_is_no_panic() {
    let commands: [&[&str]; 2] = [&["completions", "bash"], &["doctor", "--place", "guest", "--json"]];
    for arguments in commands {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paragpu"));
        command.args(arguments).stderr(Stdio::piped());
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let failed = command.stdout(full).output().unwrap();
        assert_eq!(failed.status.code(), Some(1));
        assert!(text(&failed.stderr).starts_with("paragpu: standard output:"), "{failed:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(text(&command.stdout(writer).output().unwrap().stderr), "");
    }
}

#[test]
fn a_wrong_log_level_is_answered_with_the_right_ones() {
    let wrong = daemon().args(["--log-level", "loud"]).output().unwrap();
    assert!(text(&wrong.stderr).contains("off, error, warn, info, debug, trace"), "{wrong:?}");
}
