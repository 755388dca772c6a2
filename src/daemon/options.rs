//! The daemon's command line.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueHint};
use log::LevelFilter;

use crate::executor::confinement::{Sandbox, Seccomp};

/// Shares this host's OpenCL devices with virtual machines and containers.
///
/// Serves vhost-user GPU connections: each is a vGPU of its own. Give the socket to QEMU with
/// `-chardev socket,id=gpu,path=PATH -device vhost-user-gpu-pci,chardev=gpu` and shared guest memory, or
/// run a program of this host on it with `paragpu run`. With a configuration file, vGPUs have names, sockets and settings
/// of their own. SIGHUP reads the file again; connections of vGPUs that stay go on.
#[derive(Clone, Debug, Parser)]
#[command(name = "paragpud", version)]
pub struct Options {
    /// Listen on this socket. Default: $XDG_RUNTIME_DIR/paragpu/paragpud.sock, or for root
    /// /run/paragpu/paragpud.sock; with --config, as the file says.
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<PathBuf>,

    /// Serve the vGPUs of this file, and those that are added through the admin socket.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// Say whether a configuration file is right, or else what is wrong with it and where, and exit.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub check_config: Option<PathBuf>,

    /// Listen on this socket for `paragpu ps` and others, and for HTTP; "none" for nowhere. Default: admin.sock beside
    /// the usual socket, or the path of another one with ".admin" behind it; none with --fd.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub admin_socket: Option<PathBuf>,

    /// Let launchers hand VMs over at this socket; "none" for nowhere. Default: hand-over.sock beside the usual socket, or
    /// the path of another one with ".hand-over" behind it.
    ///
    /// libvirt starts paragpud with --fd for each VM. Such a process hands the VM over to the daemon at this socket, or else
    /// to this user's or the system's, and lives as long as the VM. If no daemon runs, or with "none" or --config, it serves
    /// the VM itself.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub hand_over: Option<PathBuf>,

    /// Use this inherited socket: a listening one, or a connected one that is handed over or served until it ends.
    #[arg(long, value_name = "N")]
    pub fd: Option<i32>,

    /// Names of vGPUs in logs start with this.
    #[arg(long, value_name = "PREFIX", default_value = "vgpu")]
    pub name: String,

    /// Log this much; info unless told. The environment variable PARAGPU_LOG goes before it, and says it in more
    /// detail, like RUST_LOG.
    #[arg(long, value_name = "LEVEL", value_parser = log_level())]
    pub log_level: Option<LevelFilter>,

    /// Keep files, processes and the network away from what runs guests' commands.
    ///
    /// Each VM's commands run in an executor, a process of its own, which loads the host's OpenCL driver; on a CPU device
    /// a guest's kernels are machine code in there. With Landlock it opens system libraries, the devices that compute and
    /// a directory of its own, and nothing else; with namespaces it sees no other process and no network, and whatever it
    /// starts ends with it. Needs no privileges, but a host may forbid user namespaces. docs/security.md tells more.
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub sandbox: Sandbox,

    /// What happens when an executor makes a system call that its policy does not allow.
    ///
    /// The policy is resources/seccomp/executor.toml in the source. If a vendor's driver needs a call that it lacks,
    /// `log` finds out which.
    #[arg(long, value_name = "ACTION", value_enum, default_value_t)]
    pub seccomp: Seccomp,

    /// Start each executor in a control group (v2) of its own below this one: a directory that paragpud may write to, or
    /// `self` for the group that it runs in (systemd: Delegate=yes).
    ///
    /// What an executor and all that it starts use is counted there, ends at once, and can be limited: memory, CPU time and
    /// tasks, as far as the group has the controllers. Without cgroup v2 a warning says so, and executors run as before.
    #[arg(long, value_name = "PATH|self")]
    pub cgroup: Option<PathBuf>,

    /// Print what this program can do, as JSON, and exit.
    #[arg(long)]
    pub print_capabilities: bool,

    /// Accepted for libvirt's sake, and ignored: devices are chosen through OpenCL.
    #[arg(long, value_name = "PATH")]
    pub render_node: Option<PathBuf>,

    /// Accepted for libvirt's sake, and always on.
    #[arg(long)]
    pub virgl: bool,

    /// End when standard input does: `paragpu run` ties a private daemon to itself with this.
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
}

fn log_level() -> impl TypedValueParser<Value = LevelFilter> {
    let names = ["off", "error", "warn", "info", "debug", "trace"];
    PossibleValuesParser::new(names).try_map(|name| name.parse::<LevelFilter>())
}
