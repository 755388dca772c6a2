//! `paragpu ps`.

use std::process::ExitCode;

use super::client::{Client, Target};
use super::format::{self, Side};
use crate::admin::api::Vgpus;

/// List the vGPUs of a daemon.
///
/// DEVICE TIME, LAUNCHES and EVICTED are totals since the vGPU was added; MEMORY is what it has in use now.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// As JSON: what the admin socket answers.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.target)?;
    if arguments.json {
        return super::print_json(&client.get("/v1/vgpus")?);
    }
    let Vgpus { vgpus } = client.get("/v1/vgpus")?;
    let headings = [
        ("NAME", Side::Left),
        ("STANDING", Side::Left),
        ("POLICY", Side::Left),
        ("DEVICES", Side::Left),
        ("CONNECTIONS", Side::Right),
        ("DEVICE TIME", Side::Right),
        ("MEMORY", Side::Right),
        ("LAUNCHES", Side::Right),
        ("EVICTED", Side::Right),
    ];
    let rows: Vec<Vec<String>> = vgpus
        .iter()
        .map(|vgpu| {
            let devices =
                vgpu.settings.get("devices").map(format::plain).filter(|devices| !devices.is_empty());
            vec![
                vgpu.name.clone(),
                format::standing(vgpu.standing).to_owned(),
                format::policy(vgpu),
                devices.unwrap_or_else(|| "all".to_owned()),
                vgpu.connections.len().to_string(),
                format::time(vgpu.usage.device_ns),
                format::bytes(vgpu.usage.memory_bytes as f64),
                vgpu.usage.launches.to_string(),
                vgpu.evictions.to_string(),
            ]
        })
        .collect();
    super::print(format::table(&headings, &rows).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
