//! `paragpu add`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueHint;

use super::client::{Client, Target, absolute, keys, vgpu_path};
use crate::admin::api::Vgpu;

/// Add a vGPU to a daemon that runs.
///
/// It lives until it is removed or the daemon ends; write it into the configuration file to keep it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Its name.
    name: String,
    /// Where its guest connects.
    #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
    path: PathBuf,
    /// Its settings, as with `paragpu set`: weight=200 group=libvirt-qemu memory="2 GiB".
    #[arg(value_name = "KEY=VALUE")]
    assignments: Vec<String>,
    #[command(flatten)]
    target: Target,
    /// Print the new vGPU as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut keys = keys(&arguments.assignments)?;
    keys["socket"] = serde_json::to_value(absolute(&arguments.path)?)?;
    let client = Client::new(&arguments.target)?;
    let path = vgpu_path(&arguments.name);
    if arguments.json {
        return super::print_json(&client.ask("PUT", &path, Some(&keys))?);
    }
    client.ask::<Vgpu>("PUT", &path, Some(&keys))?;
    Ok(ExitCode::SUCCESS)
}
