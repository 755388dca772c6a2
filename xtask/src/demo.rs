//! `cargo xtask demo`: what the project does, shown in one VM.

use crate::guest_job::Job;
use crate::packages::Purpose;
use crate::vm::VmOptions;
use crate::vm_run::Output;
use crate::{qemu, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

const SCRIPT: &str = include_str!("resources/demo.sh");

/// An emulated processor takes too long to copy the data of clpeak's transfer test, and it would measure just that.
const CLPEAK_OPTIONS_EMULATED: &str = "--kernel-latency --global-bandwidth";
/// Where the host's OpenCL driver is emulated as well, memory takes minutes.
const CLPEAK_OPTIONS_NESTED: &str = "--kernel-latency";
const CLPEAK_OPTIONS: &str = "--kernel-latency --global-bandwidth --transfer-bandwidth";

/// The picture's size.
const PICTURE: &str = "";
const SMALL_PICTURE: &str = "--width 320 --height 180";

/// Show what paragpu does.
///
/// Boots a VM with a vGPU, runs unmodified OpenCL programs in it (clinfo and clpeak) and one that renders a picture,
/// which ends up in target/demo/picture.png.
#[derive(Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    vm: VmOptions,
}

impl Demo {
    /// Runs the demo; the exit status says whether all of it worked.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let clock = Clock::start();
        clock.say("installing the Debian packages that are missing");
        self.vm.install_packages(&[Purpose::Vm, Purpose::Demo])?;

        clock.say("building paragpu and the program for the picture");
        let program = workspace::build_example(self.vm.profile(), "picture")?;

        let folder = workspace::target_directory()?.join("demo");
        let picture = folder.join("picture.png");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        if picture.exists() {
            std::fs::remove_file(&picture)
                .with_context(|| format!("cannot remove the old {}", picture.display()))?;
        }

        clock.say("booting a VM with a stock Debian kernel and a vGPU");
        let vm = self.vm.with_programs(&["clinfo", "clpeak"]);
        let (clpeak, size) = match (vm.is_nested(), qemu::kvm_is_usable()) {
            (true, _) => (CLPEAK_OPTIONS_NESTED, SMALL_PICTURE),
            (false, false) => (CLPEAK_OPTIONS_EMULATED, PICTURE),
            (false, true) => (CLPEAK_OPTIONS, PICTURE),
        };
        let words = ["sh".as_ref(), "-c".as_ref(), SCRIPT.as_ref(), "demo".as_ref(), program.as_os_str()];
        let mut command = words.map(std::ffi::OsStr::to_owned).to_vec();
        command.extend([picture.clone().into_os_string(), clpeak.into(), size.into()]);
        let outcome = vm.boot(&Job::new(command, &[folder])?, Output::passed_through())?;
        println!();
        clock.say("the VM is off");
        match &outcome.summary {
            Some(summary) => println!("demo: paragpud got {summary}"),
            // The outer VM's paragpud has told it above.
            None if vm.is_nested() => {}
            None => println!("demo: paragpud told nothing of the commands it got"),
        }
        if outcome.status != 0 {
            bail!("the demo's programs failed in the VM (exit status {})", outcome.status);
        }
        check_png(&picture)?;
        println!("demo: the picture is {}", picture.display());
        clock.say("done");
        println!("demo: ok");
        Ok(ExitCode::SUCCESS)
    }
}

/// Tells what happens, with the time since the start.
struct Clock(Instant);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now())
    }

    fn say(&self, text: &str) {
        println!("demo: [{:5.1} s] {text}", self.0.elapsed().as_secs_f32());
    }
}

fn check_png(file: &Path) -> Result<()> {
    let content =
        std::fs::read(file).with_context(|| format!("the picture program left no {}", file.display()))?;
    if !content.starts_with(b"\x89PNG\r\n\x1a\n") {
        bail!("{} is no PNG file", file.display());
    }
    Ok(())
}
