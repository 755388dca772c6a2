//! The workloads of `cargo xtask bench`: a process that measures what it is told to, on the platform that it is given.
//!
//! Each line of the standard input is a request, and is answered by a line of JSON:
//!
//!     run NAME SAMPLES WARMUP     {"ns":[…]}: so many samples, after others that are not told
//!     check                       {"right":true}: what the workload left is what it must be
//!
//! Between requests it sleeps, so that two such processes can take turns. A workload's objects stay until another one's are
//! asked for. A result that is wrong or an OpenCL error ends the process.

mod applications;
mod build;
#[path = "../common/mod.rs"]
mod common;
mod data;
mod direct;
mod latency;
#[path = "../common/marks.rs"]
mod marks;
mod place;
mod throughput;

use std::io::{BufRead as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser;
use marks::{speed_samples_begin, speed_samples_end};
use place::Place;

/// Measures what lines on the standard input name.
#[derive(Parser)]
struct Arguments {
    /// Name of the OpenCL platform, or a part of it.
    #[arg(long, default_value = "paragpu")]
    platform: String,
}

/// What is measured.
trait Workload {
    /// Makes ready for some samples: what changes between them and is not measured.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// Does it once, and tells how long the part took that is measured.
    fn sample(&mut self) -> Result<Duration>;

    /// Compares what is left with another computation.
    fn check(&mut self) -> Result<()>;
}

/// A workload by its name.
fn open<'a>(name: &str, place: &'a Place) -> Result<Box<dyn Workload + 'a>> {
    let (group, rest) = name.split_once('/').ok_or_else(|| anyhow!("no workload {name}"))?;
    let workload = match group {
        "latency" => latency::open(rest, place)?,
        "throughput" => throughput::open(rest, place)?,
        "data" => data::open(rest, place)?,
        "build" => build::open(rest, place)?,
        "applications" => applications::open(rest, place)?,
        _ => None,
    };
    workload.ok_or_else(|| anyhow!("no workload {name}"))
}

/// How long something takes.
fn timed(what: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    what()?;
    Ok(start.elapsed())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let place = Place::open(&arguments.platform)?;
    let mut current: Option<(String, Box<dyn Workload + '_>)> = None;
    println!(r#"{{"ready":true}}"#);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["run", name, samples, warmup] => {
                if current.as_ref().is_none_or(|(of, _)| of != name) {
                    // Its memory first.
                    drop(current.take());
                    current = Some((name.to_owned(), open(name, &place).with_context(|| name.to_owned())?));
                }
                let workload = &mut current.as_mut().context("no workload")?.1;
                let mut run = || -> Result<String> {
                    workload.prepare()?;
                    for _ in 0..warmup.parse::<usize>()? {
                        workload.sample()?;
                    }
                    let count = samples.parse::<usize>()?;
                    speed_samples_begin();
                    let samples = (0..count).map(|_| workload.sample()).collect::<Result<Vec<_>>>();
                    speed_samples_end();
                    let list: Vec<String> =
                        samples?.into_iter().map(|sample| sample.as_nanos().to_string()).collect();
                    Ok(format!(r#"{{"ns":[{}]}}"#, list.join(",")))
                };
                run().with_context(|| name.to_owned())?
            }
            ["check"] => {
                let (name, workload) = current.as_mut().context("nothing was run")?;
                workload.check().with_context(|| name.clone())?;
                r#"{"right":true}"#.to_owned()
            }
            _ => bail!("no request {line:?}"),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
