//! `paragpu completions`.

use clap::CommandFactory;
use clap_complete::Shell;

/// Print a shell's completion script for paragpu, or for paragpud with --daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The shell.
    shell: Shell,
    /// For paragpud.
    #[arg(long)]
    daemon: bool,
}

pub(super) fn main(arguments: &Arguments) {
    let mut command = if arguments.daemon { crate::daemon::command() } else { super::Arguments::command() };
    let name = command.get_name().to_owned();
    clap_complete::generate(arguments.shell, &mut command, name, &mut std::io::stdout());
}
