//! `paragpu pause`, `resume`, `kill` and `remove`: one thing, done to some vGPUs.

use std::process::ExitCode;

use serde_json::Value;

use super::client::{Client, Target, vgpu_path};

/// Which vGPUs.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The vGPUs.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    target: Target,
    /// Print what the daemon answers, as JSON, one line for each.
    #[arg(long)]
    json: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Pause,
    Resume,
    Kill,
    Remove,
}

impl Deed {
    fn request(self, name: &str) -> (&'static str, String) {
        let path = vgpu_path(name);
        match self {
            Deed::Pause => ("POST", format!("{path}/pause")),
            Deed::Resume => ("POST", format!("{path}/resume")),
            Deed::Kill => ("POST", format!("{path}/kill")),
            Deed::Remove => ("DELETE", path),
        }
    }
}

/// The others are done even if one fails.
pub(super) fn main(arguments: &Arguments, deed: Deed) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.target)?;
    let mut code = ExitCode::SUCCESS;
    for name in &arguments.names {
        let (method, path) = deed.request(name);
        match client.ask::<Value>(method, &path, None) {
            Ok(answer) if arguments.json => super::print(format!("{answer}\n").as_bytes())?,
            Ok(_) => {}
            Err(error) => {
                eprintln!("paragpu: {name}: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
