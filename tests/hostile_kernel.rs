//! What can a guest's kernel do to the host that is machine code in its executor? It makes the system calls here itself.

mod common;

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use common::{Daemon, children_of, example, kill, succeeds, wait_until};
use rustix::process::Signal;

const AT_FDCWD: i32 = libc::AT_FDCWD;

/// A call as the example reads it.
fn call(number: i64, arguments: &[&dyn std::fmt::Display]) -> String {
    arguments.iter().fold(number.to_string(), |call, argument| format!("{call},{argument}"))
}

fn socket(family: i32) -> String {
    call(libc::SYS_socket, &[&family, &libc::SOCK_STREAM, &0])
}

fn open(path: &Path, flags: i32) -> String {
    call(libc::SYS_openat, &[&AT_FDCWD, &format_args!("s:{}", path.display()), &flags, &0o600])
}

/// What the calls return; none if the executor does not survive them.
fn make(daemon: &Daemon, calls: &[String]) -> Option<Vec<i64>> {
    let output = daemon.run(&example("system_calls")).args(["--"]).args(calls).output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Some(said.lines().map(|line| line.parse().unwrap()).collect());
    }
    assert!(wrong.contains("CL_DEVICE_NOT_AVAILABLE") || wrong.contains("the device is lost"), "{wrong}");
    None
}

/// What the last call returns; none if the executor does not survive.
fn result(daemon: &Daemon, calls: &[String]) -> Option<i64> {
    make(daemon, calls).map(|results| *results.last().unwrap())
}

/// That each call fails with one of its errors. All are made by one kernel.
#[track_caller]
fn refused(daemon: &Daemon, calls: &[(String, &[i32])]) {
    let lines: Vec<String> = calls.iter().map(|(call, _)| call.clone()).collect();
    let results = make(daemon, &lines).expect("the executor survives");
    for ((call, errors), result) in calls.iter().zip(results) {
        assert!(errors.iter().any(|error| result == -i64::from(*error)), "{call}: {result}");
    }
}

fn is_missing(what: &str, daemon: &Daemon) -> bool {
    let missing = daemon.log().contains(what);
    if missing {
        // Not by eprintln, which the test runner keeps to itself.
        let _ = writeln!(std::io::stderr(), "skipped: this host has {what}");
    }
    missing
}

/// A guest's secret: a file that the daemon's user may read.
fn secret() -> tempfile::NamedTempFile {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(&secret, "secret").unwrap();
    secret
}

/// A device that several vGPUs have at once: otherwise one whose kernel waits would keep the others from it.
const SHARED: &str = "[[device]]\nname = \"cpu\"\nplatform = \"Portable Computing Language\"\nleases = 8\n";

/// A daemon on which bystanders wait beside an attacker.
fn shared_daemon() -> Daemon {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, SHARED).unwrap();
    // It listens when it has read the file.
    Daemon::start_with_options(&["--config", file.path().to_str().unwrap()])
}

const UNCONFINED: [&str; 4] = ["--sandbox", "none", "--seccomp", "none"];

#[test]
fn files_of_the_host_and_of_other_vgpus_are_out_of_reach() {
    let daemon = shared_daemon();
    if is_missing("no Landlock", &daemon) {
        return;
    }
    let bystander = Bystander::start(&daemon);
    let other = bystander.directory.clone();
    let secret = secret();
    let memory = format!("/proc/{}/mem", daemon.pid());
    refused(
        &daemon,
        &[
            (open(secret.path(), libc::O_RDONLY), &[libc::EACCES]),
            (open("/etc/shadow".as_ref(), libc::O_RDONLY), &[libc::EACCES]),
            (open(&other, libc::O_RDONLY | libc::O_DIRECTORY), &[libc::EACCES]),
            (open(&other.join("kernel"), libc::O_WRONLY | libc::O_CREAT), &[libc::EACCES]),
            (open("/usr/lib/made".as_ref(), libc::O_WRONLY | libc::O_CREAT), &[libc::EACCES]),
            // In a PID namespace there may be no such process.
            (open(memory.as_ref(), libc::O_RDWR), &[libc::EACCES, libc::ENOENT]),
            (open("/dev/mem".as_ref(), libc::O_RDWR), &[libc::EACCES, libc::ENOENT]),
        ],
    );
    bystander.finish();
}

#[test]
fn the_network_is_out_of_reach() {
    let daemon = Daemon::start();
    let families = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK, libc::AF_VSOCK];
    refused(&daemon, &families.map(|family| (socket(family), &[libc::EAFNOSUPPORT] as &[i32])));
}

#[test]
fn a_kernel_that_has_files_written_to_the_disk_does_nothing() {
    let daemon = Daemon::start();
    // Of a file that is not open: a call that is carried out would say so.
    let calls = [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync_file_range];
    let results = make(&daemon, &calls.map(|number| call(number, &[&-1, &0, &0, &0])));
    assert_eq!(results.expect("the executor survives"), [0, 0, 0]);
}

#[test]
fn calls_that_only_an_attacker_makes_end_its_executor_and_nothing_else() {
    let mut daemon = shared_daemon();
    let bystander = Bystander::start(&daemon);
    let broker = daemon.pid();
    let calls = [
        call(libc::SYS_ptrace, &[&libc::PTRACE_SEIZE, &broker, &0, &0]),
        call(libc::SYS_kill, &[&broker, &libc::SIGTERM]),
        call(libc::SYS_mount, &[&"s:none", &"s:/tmp", &"s:tmpfs", &0, &0]),
        call(libc::SYS_unshare, &[&libc::CLONE_NEWUSER]),
        call(libc::SYS_clone, &[&(libc::CLONE_NEWUSER | libc::SIGCHLD), &0, &0, &0, &0]),
        call(libc::SYS_clone, &[&(libc::CLONE_PARENT | libc::SIGCHLD), &0, &0, &0, &0]),
        call(libc::SYS_io_uring_setup, &[&8, &"m:"]),
        // Only the lower half of its number counts for the kernel.
        call(libc::SYS_ioctl, &[&0, &(1_u64 << 32 | libc::TIOCSTI), &"m:"]),
        call(libc::SYS_prctl, &[&libc::PR_SET_DUMPABLE, &2, &0, &0, &0]),
        call(libc::SYS_prlimit64, &[&broker, &libc::RLIMIT_NOFILE, &0, &"m:"]),
    ];
    for call in &calls {
        assert_eq!(result(&daemon, std::slice::from_ref(call)), None, "{call} is survived");
    }
    assert!(daemon.log().contains("SIGSYS") && daemon.log().contains("docs/security.md"), "{}", daemon.log());
    bystander.finish();
    assert!(daemon.is_running());
    succeeds(daemon.run(&example("vgpu_check")).args(["--only", "vector addition"]));
}

#[test]
fn what_drivers_try_is_refused_quietly() {
    let daemon = Daemon::start();
    let not_there: &[i32] = &[libc::ENOSYS];
    let not_allowed: &[i32] = &[libc::EPERM];
    refused(
        &daemon,
        &[
            (call(libc::SYS_clone3, &[&"m:", &88]), not_there),
            (call(libc::SYS_perf_event_open, &[&"m:", &0, &-1, &-1, &0]), not_allowed),
            (call(libc::SYS_setuid, &[&0]), not_allowed),
            (call(libc::SYS_setsid, &[]), not_allowed),
            (call(libc::SYS_setpriority, &[&0, &0, &-20]), not_allowed),
        ],
    );
}

#[test]
fn files_have_a_longest_length() {
    let daemon = Daemon::start();
    let create = call(libc::SYS_memfd_create, &[&"s:file", &0]);
    let grow = |bytes: u64| call(libc::SYS_ftruncate, &[&"r:0", &bytes]);
    assert_eq!(result(&daemon, &[create.clone(), grow(1 << 20)]), Some(0));
    // The signal for that ends an executor that is not the first process of a PID namespace.
    let result = result(&daemon, &[create, grow(1 << 40)]);
    assert!(result.is_none_or(|result| result == -i64::from(libc::EFBIG)), "{result:?}");
}

#[test]
fn no_process_outlives_its_executor_even_if_the_broker_is_killed() {
    let daemon = Daemon::start();
    if is_missing("no namespaces", &daemon) {
        return;
    }
    let fork = call(libc::SYS_clone, &[&libc::SIGCHLD, &0, &0, &0, &0]);
    let guest = Bystander::with(&daemon, &[fork]);
    let executor = daemon.executors()[0];
    wait_until("a process of the kernel's", || !children_of(executor).is_empty());
    let orphan = children_of(executor)[0];
    kill(daemon.pid());
    for pid in [executor, orphan] {
        wait_until("its end", || !is_alive(pid));
    }
    drop(guest);
}

#[test]
fn without_namespaces_a_process_ends_with_its_executor_too() {
    let daemon = Daemon::start_with_options(&["--sandbox", "landlock"]);
    let fork = call(libc::SYS_clone, &[&libc::SIGCHLD, &0, &0, &0, &0]);
    let guest = Bystander::with(&daemon, &[fork]);
    let executor = daemon.executors()[0];
    wait_until("a process of the kernel's", || !children_of(executor).is_empty());
    let process = children_of(executor)[0];
    guest.finish();
    wait_until("its end", || !is_alive(process));
}

fn is_alive(pid: u32) -> bool {
    // One that nobody waits for, as the init of a container may not, has ended all the same.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// Otherwise these tests would say nothing.
#[test]
fn without_a_sandbox_much_of_this_works() {
    let daemon = Daemon::start_with_options(&UNCONFINED);
    let secret = secret();
    let calls = [
        open(secret.path(), libc::O_RDONLY),
        socket(libc::AF_UNIX),
        call(libc::SYS_kill, &[&daemon.pid(), &0]),
        call(libc::SYS_setpriority, &[&0, &0, &19]),
        call(libc::SYS_io_uring_setup, &[&8, &"m:"]),
    ];
    let results = make(&daemon, &calls).expect("the executor survives");
    assert!(results[..4].iter().all(|result| *result >= 0), "{results:?}");
    assert!(daemon.log().contains("--sandbox none") && daemon.log().contains("--seccomp none"));
}

/// Each layer by itself, since a kernel may lack the other.
#[test]
fn without_seccomp_namespaces_and_landlock_hold() {
    let daemon = Daemon::start_with_options(&["--seccomp", "none"]);
    if is_missing("no Landlock", &daemon) || is_missing("no namespaces", &daemon) {
        return;
    }
    let name = format!("paragpu-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    // sockaddr_un of an abstract name, and sockaddr_in of 127.0.0.1.
    let family = |family: i32| (family as u16).to_ne_bytes();
    let unix = [&family(libc::AF_UNIX)[..], &[0], name.as_bytes()].concat();
    let inet = [&family(libc::AF_INET)[..], &port.to_be_bytes(), &[127, 0, 0, 1], &[0; 8]].concat();
    let connect = |socket: &str, address: &[u8]| {
        let hex: String = address.iter().map(|byte| format!("{byte:02x}")).collect();
        call(libc::SYS_connect, &[&socket, &format_args!("x:{hex}"), &address.len()])
    };
    let (broker, secret) = (daemon.pid(), secret());
    let calls = [
        socket(libc::AF_UNIX),
        socket(libc::AF_INET),
        connect("r:0", &unix),
        connect("r:1", &inet),
        open(secret.path(), libc::O_RDONLY),
        call(libc::SYS_kill, &[&broker, &libc::SIGTERM]),
        call(libc::SYS_ptrace, &[&libc::PTRACE_SEIZE, &broker, &0, &0]),
        call(libc::SYS_mount, &[&"s:none", &"s:/tmp", &"s:tmpfs", &0, &0]),
    ];
    let results = make(&daemon, &calls).expect("the executor survives");
    let errors: Vec<i32> = results.iter().map(|result| -(*result as i32)).collect();
    // To an abstract socket of another network namespace nobody listens; Landlock would say EPERM, and for TCP EACCES.
    assert!([libc::EPERM, libc::ECONNREFUSED].contains(&errors[2]), "{errors:?}");
    assert_eq!(errors[3..5], [libc::EACCES, libc::EACCES]);
    for error in &errors[5..] {
        assert!([libc::EPERM, libc::ESRCH].contains(error), "{errors:?}");
    }
}

#[test]
fn without_namespaces_and_landlock_seccomp_holds() {
    let daemon = Daemon::start_with_options(&["--sandbox", "none"]);
    refused(&daemon, &[(socket(libc::AF_UNIX), &[libc::EAFNOSUPPORT])]);
    assert_eq!(result(&daemon, &[call(libc::SYS_kill, &[&daemon.pid(), &0])]), None);
}

#[test]
fn what_is_logged_is_let_through() {
    let daemon = Daemon::start_with_options(&["--seccomp", "log"]);
    let own = call(libc::SYS_kill, &[&0, &0]);
    assert_eq!(result(&daemon, &[own]), Some(0));
}

/// A guest whose kernel runs until it is interrupted.
struct Bystander {
    program: Child,
    executor: Vec<u32>,
    /// Its executor's.
    directory: PathBuf,
}

impl Bystander {
    fn start(daemon: &Daemon) -> Bystander {
        Bystander::with(daemon, &[])
    }

    /// Makes some calls first.
    fn with(daemon: &Daemon, first: &[String]) -> Bystander {
        let (known, directories) = (daemon.executors(), daemon.executors_directories());
        let mut calls = first.to_vec();
        let queue = format!("r:{}", calls.len());
        calls.push(call(libc::SYS_epoll_create1, &[&0]));
        calls.push(call(libc::SYS_epoll_pwait, &[&queue, &"m:", &1, &60_000, &0, &8]));
        let mut command = daemon.run(&example("system_calls"));
        command.arg("--").args(calls).stdout(Stdio::piped()).stderr(Stdio::null());
        let program = command.spawn().unwrap();
        let is_new = |pid: &u32| !known.contains(pid);
        // One gets its name, which has an extension, when it is locked.
        let is_ready = |path: &PathBuf| !directories.contains(path) && path.extension().is_some();
        let mut directory = None;
        wait_until("its executor", || {
            directory = daemon.executors_directories().into_iter().find(is_ready);
            directory.is_some() && daemon.executors().iter().any(is_new)
        });
        let executor = daemon.executors().into_iter().filter(is_new).collect();
        Bystander { program, executor, directory: directory.unwrap() }
    }

    /// Ends as if nothing had happened.
    #[track_caller]
    fn finish(mut self) {
        wait_until("the kernel's end", || {
            // Its waiting is over when its process was stopped for a moment.
            for pid in &self.executor {
                // It may just have ended, with its guest.
                let process = rustix::process::Pid::from_raw(*pid as i32).unwrap();
                let _ = rustix::process::kill_process(process, Signal::STOP);
                let _ = rustix::process::kill_process(process, Signal::CONT);
            }
            self.program.try_wait().unwrap().is_some()
        });
        let output = self.program.wait_with_output().unwrap();
        assert!(output.status.success(), "{:?} did not survive", self.executor);
        assert!(output.stdout.ends_with(b"\n-4\n"), "{:?}", String::from_utf8_lossy(&output.stdout));
    }
}
