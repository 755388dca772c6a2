//! `paragpu completions`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// Print a shell's completion script for paragpu, or for paragpud with --daemon.
///
/// For bash, put it where the package bash-completion looks:
/// paragpu completions bash > ~/.local/share/bash-completion/completions/paragpu
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The shell.
    shell: Shell,
    /// For paragpud.
    #[arg(long)]
    daemon: bool,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut command = if arguments.daemon { crate::daemon::command() } else { super::Arguments::command() };
    let name = command.get_name().to_owned();
    // Into memory: it would panic where standard output fails.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    super::print(&script)?;
    Ok(ExitCode::SUCCESS)
}
