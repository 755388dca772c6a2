//! `paragpu show`.

use std::process::ExitCode;

use serde_json::{Map, Value};

use super::client::{Client, Target, vgpu_path};
use super::format::{self, Side};
use crate::admin::api::Vgpu;

/// Show everything about a vGPU: its settings, what it uses, its connections and guest processes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The vGPU.
    name: String,
    #[command(flatten)]
    target: Target,
    /// As JSON: what the admin socket answers.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.target)?;
    let path = vgpu_path(&arguments.name);
    if arguments.json {
        return super::print_json(&client.get(&path)?);
    }
    super::print(text(&client.get(&path)?).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn text(vgpu: &Vgpu) -> String {
    let mut lines = vec![
        ("name".to_owned(), vgpu.name.clone()),
        ("standing".to_owned(), format::standing(vgpu.standing).to_owned()),
        ("device time".to_owned(), format::time(vgpu.usage.device_ns)),
        ("launches".to_owned(), vgpu.usage.launches.to_string()),
        ("to device".to_owned(), format::bytes(vgpu.usage.bytes_to_device as f64)),
        ("from device".to_owned(), format::bytes(vgpu.usage.bytes_from_device as f64)),
        ("memory in use".to_owned(), format::bytes(vgpu.usage.memory_bytes as f64)),
        ("evictions".to_owned(), vgpu.evictions.to_string()),
        ("processor time".to_owned(), format::time(vgpu.cpu_ns)),
    ];
    flatten("", &vgpu.settings, &mut lines);
    let width = lines.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    let mut text: String = lines.iter().map(|(key, value)| format!("{key:<width$}  {value}\n")).collect();
    if !vgpu.connections.is_empty() {
        let or_unknown = |number: Option<String>| number.unwrap_or_else(|| "?".to_owned());
        let rows: Vec<Vec<String>> = vgpu
            .connections
            .iter()
            .map(|connection| {
                let pid = connection.pid.map(|pid| pid.to_string());
                let uid = connection.uid.map(|uid| uid.to_string());
                vec![connection.name.clone(), or_unknown(pid), or_unknown(uid)]
            })
            .collect();
        let headings = [("CONNECTION", Side::Left), ("PID", Side::Right), ("USER", Side::Right)];
        text += &format!("\n{}", format::table(&headings, &rows));
    }
    if !vgpu.processes.is_empty() {
        let rows: Vec<Vec<String>> = vgpu
            .processes
            .iter()
            .map(|process| {
                vec![
                    process.context.to_string(),
                    // A guest's word, which another program may have printed.
                    crate::guest_log::printable(&process.name),
                    format::time(process.usage.device_ns),
                    process.usage.launches.to_string(),
                    format::bytes(process.usage.memory_bytes as f64),
                ]
            })
            .collect();
        let headings = [
            ("CONTEXT", Side::Right),
            ("PROCESS", Side::Left),
            ("DEVICE TIME", Side::Right),
            ("LAUNCHES", Side::Right),
            ("MEMORY", Side::Right),
        ];
        text += &format!("\n{}", format::table(&headings, &rows));
    }
    text
}

fn flatten(path: &str, table: &Map<String, Value>, lines: &mut Vec<(String, String)>) {
    for (key, value) in table {
        match value {
            Value::Object(below) => flatten(&format!("{path}{key}."), below, lines),
            value => lines.push((format!("{path}{key}"), format::plain(value))),
        }
    }
}
