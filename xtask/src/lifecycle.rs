//! `cargo xtask lifecycle`: one paragpud through all that can happen to its guests.
//!
//! In a first VM processes compute, are killed while they compute, the driver is unbound and bound, and the guest
//! reboots; then a second VM connects to the same paragpud and runs unmodified programs. In between and at the end nothing
//! may be left behind.

use crate::guest_job::Job;
use crate::packages::Purpose;
use crate::proc_count::{Holdings, children};
use crate::vm::VmOptions;
use crate::vm_run::{Outcome, Output};
use crate::{logs, say, workspace};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SCRIPT: &str = include_str!("resources/lifecycle.sh");
const SECOND_SCRIPT: &str = include_str!("resources/second_vm.sh");

/// How long it may take until what a process, a driver or a VM held is given back.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(50);

/// Check that killed processes, driver reloads, reboots and new VMs leave nothing behind in paragpud.
///
/// Boots two VMs, one after the other, on one paragpud.
#[derive(Args)]
pub(crate) struct Lifecycle {
    #[command(flatten)]
    vm: VmOptions,
}

impl Lifecycle {
    /// Runs the scenario.
    pub(crate) fn run(self) -> Result<ExitCode> {
        self.vm.install_packages(&[Purpose::Vm, Purpose::Programs])?;
        check(&self.vm)?;
        say::step("lifecycle", "ok");
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs the scenario in VMs with these options.
pub(crate) fn check(options: &VmOptions) -> Result<()> {
    let program = workspace::build_example(options.profile(), "vgpu_check")?;
    let log = workspace::target_directory()?.join("lifecycle-paragpud.log");
    scenario(options, &program, &log)
        .map_err(|error| anyhow!("{error:#}{}", logs::end("paragpud's log", &log)))
}

fn scenario(options: &VmOptions, program: &Path, log: &Path) -> Result<()> {
    let scratch =
        tempfile::Builder::new().prefix("paragpu-lifecycle-").tempdir().context("no temporary folder")?;
    let socket = scratch.path().join("vgpu.sock");
    let shared = scratch.path().join("shared");
    std::fs::create_dir(&shared).context("cannot make a folder to share")?;
    let log_file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut broker = options.start_broker(&socket, log_file, "info")?;
    let options = options.on_socket(&socket);
    let paragpud = broker.id();

    let words = ["sh".as_ref(), "-c".as_ref(), SCRIPT.as_ref(), "lifecycle".as_ref(), program.as_os_str()];
    let mut command = words.map(std::ffi::OsStr::to_owned).to_vec();
    command.push(shared.clone().into_os_string());
    let mut job = Job::new(command, std::slice::from_ref(&shared))?;
    job.may_reboot = true;
    let observer = Observer { paragpud, shared, line: Vec::new(), first: None };
    let output = Output { stdout: Box::new(observer), stderr: Box::new(io::stderr()) };
    expect_success(&options.boot(&job, output)?)?;
    let first = idle(paragpud, Holdings::is_of_no_guest).context("after the first VM")?;
    say::step("lifecycle", format!("the first VM is off; paragpud holds {first}"));

    let scripts = workspace::root().join("tests/programs");
    let words =
        ["sh".as_ref(), "-c".as_ref(), SECOND_SCRIPT.as_ref(), "second".as_ref(), program.as_os_str()];
    let mut command = words.map(std::ffi::OsStr::to_owned).to_vec();
    command.push(scripts.into_os_string());
    expect_success(&options.boot(&Job::new(command, &[])?, Output::passed_through())?)?;
    let second = idle(paragpud, |now| now.is_within(&first)).context("after the second VM")?;
    say::step("lifecycle", format!("the second VM is off; paragpud holds {second}"));

    if let Some(status) = broker.ended() {
        bail!("paragpud ended ({status})");
    }
    broker.finish();
    expect_no_warnings(log)
}

fn expect_success(outcome: &Outcome) -> Result<()> {
    match outcome.status {
        0 => Ok(()),
        status => bail!("the programs in the VM ended with exit status {status}"),
    }
}

/// What paragpud holds when it has no executors any more and `gave_back` is content.
fn idle(paragpud: u32, gave_back: impl Fn(&Holdings) -> bool) -> Result<Holdings> {
    settle(|| {
        let executors = children(paragpud).len();
        if executors > 0 {
            bail!("paragpud still has {executors} executors");
        }
        let now = Holdings::of(paragpud)?;
        if !gave_back(&now) {
            bail!("paragpud still holds {now}");
        }
        Ok(now)
    })
}

/// Tries until `look` finds nothing to complain about; after some time its complaint counts.
fn settle<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        match look() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(TICK),
            result => return result,
        }
    }
}

fn expect_no_warnings(log: &Path) -> Result<()> {
    let text = std::fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    let warnings: Vec<_> =
        text.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR")).collect();
    if !warnings.is_empty() {
        bail!("paragpud warned:\n    {}", warnings.join("\n    "));
    }
    Ok(())
}

/// Shows what the guest's script says, and where it says `look NAME` looks at paragpud and its executor while the
/// guest waits. The answer is the file NAME in the shared folder: empty, or what is wrong.
struct Observer {
    paragpud: u32,
    shared: PathBuf,
    line: Vec<u8>,
    /// What paragpud and the executor held at the first look.
    first: Option<(Holdings, Holdings)>,
}

impl Observer {
    fn take_line(&mut self, line: &str) -> io::Result<()> {
        let Some(name) = line.strip_prefix("look ") else {
            return writeln!(io::stdout(), "{line}");
        };
        let complaint = match self.look() {
            Ok((paragpud, executor)) => {
                say::step("lifecycle", format!("{name}: paragpud holds {paragpud}"));
                say::step("lifecycle", format!("{name}: the executor holds {executor}"));
                self.first.get_or_insert((paragpud, executor));
                String::new()
            }
            Err(error) => format!("{error:#}"),
        };
        // The guest must not see half of it.
        let partial = self.shared.join("answer");
        std::fs::write(&partial, complaint)?;
        std::fs::rename(partial, self.shared.join(name))
    }

    fn look(&self) -> Result<(Holdings, Holdings)> {
        settle(|| {
            let executors = children(self.paragpud);
            let &[executor] = executors.as_slice() else {
                bail!("paragpud has {} executors instead of one", executors.len());
            };
            let now = (Holdings::of(self.paragpud)?, Holdings::of(executor)?);
            if let Some(first) = &self.first {
                if !now.0.is_within(&first.0) {
                    bail!("paragpud holds {}; at first it was {}", now.0, first.0);
                }
                if !now.1.is_within_but_for_private_memory(&first.1) {
                    bail!("the executor holds {}; at first it was {}", now.1, first.1);
                }
            }
            Ok(now)
        })
    }
}

impl Write for Observer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take_line(&String::from_utf8_lossy(&line))?;
            } else {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
