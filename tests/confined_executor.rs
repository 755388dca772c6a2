//! Can a guest reach the host's files, or another vGPU's, through its executor?

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{Daemon, wait_until};
use paragpu_opencl::transport::direct::{Direct, Options};
use paragpu_opencl::transport::{Shared, Transport};
use paragpu_protocol::command::{Body, BuildProgram, CreateContext, CreateProgram, GetInfo};
use paragpu_protocol::control::{Doorbell, StartRing};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::limits::MIN_RING_BYTES;
use paragpu_protocol::ring::Producer;
use paragpu_protocol::slot::Slot;
use paragpu_protocol::types::{Create, SlotRef, Span};
use zerocopy::IntoBytes;

/// Behind the ring in its region: a slot, then an answer.
const SLOT: u32 = 4096 + MIN_RING_BYTES;
const ANSWER: u32 = SLOT + 4096;
const ANSWER_BYTES: u32 = 64 * 1024;
const BUILD_LOG: u32 = 0x1183;

struct Guest {
    transport: Direct,
    ring: Shared,
    producer: Producer,
}

impl Guest {
    fn connect(daemon: &Daemon) -> Guest {
        let transport = Direct::open(&daemon.socket(), &Options::default()).unwrap();
        let ring = Shared::new(transport.create_region(u64::from(ANSWER + ANSWER_BYTES)).unwrap());
        transport.submit(StartRing::new(ring.id(), MIN_RING_BYTES).as_bytes()).unwrap();
        Guest { transport, ring, producer: Producer::new(MIN_RING_BYTES) }
    }

    /// Sends a command that answers in the slot, and waits for that.
    fn ask<B: Body>(&mut self, body: &B, data: &[u8]) -> Slot {
        self.ring.clear_slot(SLOT as usize);
        let mut frame = vec![0; 65536];
        let len = body.encode(&mut frame, &[], data).unwrap();
        self.producer.push(&self.ring, &frame[..len]);
        self.transport.submit(Doorbell::new().as_bytes()).unwrap();
        wait_until("an answer", || self.ring.read_slot(SLOT as usize).is_some());
        self.ring.read_slot(SLOT as usize).unwrap()
    }

    fn reply(&self) -> SlotRef {
        SlotRef::new(self.ring.id(), SLOT)
    }

    /// Builds a program; its status, and the compiler's log.
    fn build(&mut self, source: &str) -> (i32, String) {
        let create =
            |id: u32, parent: u32| Create { id: id.into(), parent: parent.into(), reply: self.reply() };
        let (context, program) = (create(1, 0), create(2, 1));
        assert_eq!(self.ask(&CreateContext { create: context }, &[0; 4]).status.get(), 0);
        let source = self.ask(&CreateProgram { create: program, source: Span::NONE }, source.as_bytes());
        assert_eq!(source.status.get(), 0);
        let build = BuildProgram { program: 2.into(), device_count: 0.into(), reply: self.reply() };
        let status = self.ask(&build, b"").status.get();
        let dst = Span::new(self.ring.id(), ANSWER.into(), ANSWER_BYTES.into());
        let (kind, reply) = ((InfoKind::ProgramBuild as u32).into(), self.reply());
        let ask =
            GetInfo { kind, object: 2.into(), param: BUILD_LOG.into(), dst, reply, ..GetInfo::default() };
        let len = self.ask(&ask, b"").len.get().min(ANSWER_BYTES);
        let mut log = vec![0; len as usize];
        self.ring.read(ANSWER as usize, &mut log);
        (status, String::from_utf8_lossy(&log).into_owned())
    }
}

fn environment(pid: u32, name: &str) -> Option<PathBuf> {
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    environment.split('\0').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(PathBuf::from))
}

#[test]
fn a_program_cannot_include_the_hosts_files() {
    let daemon = Daemon::start();
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(&secret, "xyzzy_secret is no OpenCL C\n").unwrap();
    let include = format!("#include \"{}\"\nkernel void k() {{}}", secret.path().display());
    let (status, log) = Guest::connect(&daemon).build(&include);
    if daemon.log().contains("Landlock") {
        // Not by eprintln, which the test runner keeps to itself.
        let _ = writeln!(std::io::stderr(), "skipped: this kernel has no Landlock");
        return;
    }
    assert_ne!(status, 0);
    assert!(!log.contains("xyzzy"), "{log}");
    wait_until("what the compiler wrote", || daemon.log().contains("error generated"));
    for line in daemon.log().lines().filter(|line| line.contains("error generated")) {
        assert!(line.contains("vgpu"), "the line does not name the vGPU: {line}");
    }
    let (status, log) = Guest::connect(&daemon).build("kernel void k(global int *x) { x[0] = 1; }");
    assert_eq!(status, 0, "{log}");
}

#[test]
fn executors_share_no_directory_and_leave_none_behind() {
    let daemon = Daemon::start();
    let mut guests = [Guest::connect(&daemon), Guest::connect(&daemon)];
    let executors = daemon.executors();
    let directories: Vec<PathBuf> =
        executors.iter().map(|pid| environment(*pid, "POCL_CACHE_DIR").unwrap()).collect();
    assert_eq!(directories.len(), 2);
    assert_ne!(directories[0], directories[1]);
    for directory in &directories {
        assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
    }
    for guest in &mut guests {
        assert_eq!(guest.build("kernel void k(global int *x) { x[0] = 1; }").0, 0);
    }
    for pid in executors {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in
            ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"]
        {
            assert!(status.contains(line), "{line} is missing in {status}");
        }
        let adjusted = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert_eq!(adjusted.trim(), "1000", "an executor goes before its broker and before any VM");
    }
    drop(guests);
    wait_until("their directories to go", || directories.iter().all(|directory| !directory.exists()));
}
