//! paragpu: runs programs on a paragpu device without a VM, and other tools.

use std::process::ExitCode;

fn main() -> ExitCode {
    paragpu::cli::main()
}
