//! `paragpu top`: a live view of devices and vGPUs.

mod draw;
mod model;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal;
use serde_json::Value;

use super::client::{Client, Target, vgpu_path};
use crate::admin::api::{Devices, Vgpus};
use model::{Model, Sample};

/// Width of a frame that is printed where nothing says how wide the terminal is.
const DEFAULT_WIDTH: u16 = 140;
/// Longest and shortest time between two frames, in seconds.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=3600.0;

/// Watch devices and vGPUs live.
///
/// Keys: q ends it, up and down choose a vGPU, p pauses or resumes that, s sorts by something else.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Print one frame as text, and end.
    #[arg(long)]
    once: bool,
    /// Time between two frames in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| INTERVALS.contains(seconds));
    seconds.ok_or_else(|| format!("allowed are {} to {} seconds", INTERVALS.start(), INTERVALS.end()))
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.target)?;
    let interval = Duration::from_secs_f64(arguments.interval);
    let mut model = Model::default();
    model.add(fetch(&client)?);
    if arguments.once {
        std::thread::sleep(interval);
        model.add(fetch(&client)?);
        let width = terminal::size().map_or(DEFAULT_WIDTH, |(width, _)| width.max(DEFAULT_WIDTH));
        super::print(render(&model, width).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("top needs a terminal; --once prints one frame as text");
    }
    let mut terminal = ratatui::try_init().context("terminal")?;
    let result = watch(&mut terminal, &client, &mut model, interval);
    ratatui::restore();
    result.map(|()| ExitCode::SUCCESS)
}

fn fetch(client: &Client) -> anyhow::Result<Sample> {
    let Vgpus { vgpus } = client.get("/v1/vgpus")?;
    let Devices { devices } = client.get("/v1/devices")?;
    Ok(Sample { at: Instant::now(), vgpus, devices })
}

/// A frame as text, without its last line: that is about keys.
fn render(model: &Model, width: u16) -> String {
    let height = draw::height(model);
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw::draw(frame, model));
    let buffer = terminal.backend().buffer();
    let line = |row: u16| {
        let cells = (0..width).map(|column| buffer[(column, row)].symbol());
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    (0..height.saturating_sub(1)).map(line).collect()
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    client: &Client,
    model: &mut Model,
    interval: Duration,
) -> anyhow::Result<()> {
    let mut next = Instant::now() + interval;
    loop {
        terminal.draw(|frame| draw::draw(frame, model))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
            {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if control => return Ok(()),
                    KeyCode::Char('s') => model.sort_by_next(),
                    KeyCode::Char('p') => pause_or_resume(client, model),
                    KeyCode::Up | KeyCode::Char('k') => model.select(-1),
                    KeyCode::Down | KeyCode::Char('j') => model.select(1),
                    _ => {}
                }
            }
            continue;
        }
        next = Instant::now() + interval;
        // A daemon that is started anew is seen again.
        match fetch(client) {
            Ok(sample) => model.add(sample),
            Err(error) => model.message = Some(format!("{error:#}")),
        }
    }
}

fn pause_or_resume(client: &Client, model: &mut Model) {
    let Some((name, paused)) = model.selected() else {
        model.message = Some("choose a vGPU first: up and down".to_owned());
        return;
    };
    let deed = if paused { "resume" } else { "pause" };
    let done = client.ask::<Value>("POST", &format!("{}/{deed}", vgpu_path(&name)), None);
    let sample = done.and_then(|_| fetch(client));
    match sample {
        Ok(sample) => model.replace(sample),
        Err(error) => model.message = Some(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests;
