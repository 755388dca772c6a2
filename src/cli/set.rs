//! `paragpu set`.

use std::process::ExitCode;

use super::client::{Client, Target, keys, vgpu_path};
use crate::admin::api::Vgpu;

/// Change settings of a vGPU while it runs.
///
/// Keys are those of the configuration, with a dot for a table: paragpu set web weight=300 limits.contexts=4 cap=none.
/// The value "default" is what the configuration says for all vGPUs. Nothing is written to the configuration file.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The vGPU.
    name: String,
    /// What to change.
    #[arg(required = true, value_name = "KEY=VALUE")]
    assignments: Vec<String>,
    #[command(flatten)]
    target: Target,
    /// Print the vGPU as it is now, as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let keys = keys(&arguments.assignments)?;
    let client = Client::new(&arguments.target)?;
    let path = vgpu_path(&arguments.name);
    if arguments.json {
        return super::print_json(&client.ask("PATCH", &path, Some(&keys))?);
    }
    client.ask::<Vgpu>("PATCH", &path, Some(&keys))?;
    Ok(ExitCode::SUCCESS)
}
