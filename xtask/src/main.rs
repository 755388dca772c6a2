//! Developer commands of paragpu, run as `cargo xtask COMMAND`.
//!
//! `vm` is the base of the others: it boots a virtual machine that shows the host's programs, has a vGPU, runs one
//! command and passes its output and exit status through. `demo` and `test` run their programs in such a VM.

mod apt;
mod bench;
mod boot_files;
mod broker;
mod closure;
mod cts;
mod demo;
mod fuzz;
mod guest_driver;
mod guest_job;
mod guest_module;
mod guest_port;
mod host_files;
mod initramfs;
mod interrupt;
mod kernel;
mod kernel_headers;
mod kernel_image;
mod lifecycle;
mod logs;
mod module_check;
mod modules;
mod nested;
mod packages;
mod ports;
mod proc_count;
mod process;
mod programs;
mod qemu;
mod returned;
mod say;
mod sides;
mod test;
mod vm;
mod vm_run;
mod vmm;
mod vmm_check;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Developer commands of paragpu.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Test(test::Test),
    Vm(vm::Vm),
    Lifecycle(lifecycle::Lifecycle),
    Module(module_check::ModuleCheck),
    Fuzz(fuzz::Fuzz),
    Cts(cts::Cts),
    Programs(programs::Programs),
    Bench(Box<bench::Bench>),
    #[command(hide = true)]
    VmPrepared(nested::Prepared),
    #[command(hide = true)]
    GuestPort(guest_port::GuestPort),
}

/// The exit status of `vm` when not the command but the VM failed, as with `env` and `timeout`.
const VM_FAILED: u8 = 125;

/// The exit status of `cts` when not a sub-test but the run failed.
const CTS_FAILED: u8 = 2;

fn main() -> ExitCode {
    let (result, failure) = match Arguments::parse().command {
        Command::Demo(demo) => (demo.run(), ExitCode::FAILURE),
        Command::Test(test) => (test.run(), ExitCode::FAILURE),
        Command::Vm(vm) => (vm.run(), ExitCode::from(VM_FAILED)),
        Command::VmPrepared(prepared) => (prepared.run(), ExitCode::from(VM_FAILED)),
        Command::GuestPort(port) => (port.run(), ExitCode::FAILURE),
        Command::Module(module) => (module.run(), ExitCode::FAILURE),
        Command::Lifecycle(lifecycle) => (lifecycle.run(), ExitCode::FAILURE),
        Command::Fuzz(fuzz) => (fuzz.run(), ExitCode::FAILURE),
        Command::Bench(bench) => (bench.run(), ExitCode::FAILURE),
        Command::Programs(programs) => (programs.run(), ExitCode::FAILURE),
        Command::Cts(cts) => (cts.run(), ExitCode::from(CTS_FAILED)),
    };
    result.unwrap_or_else(|error| {
        say::error(&error);
        failure
    })
}
