//! paragpud: the daemon that shares this host's GPUs. Arguments to configuration; the rest is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    paragpu::daemon::main()
}
