//! `cargo xtask bench sharing`: what vGPUs that share a device get of it, and what they cost.

mod conservation;
mod fairness;
mod figure;
mod hostile;
mod isolation;
mod load;
mod scale;
mod speed;
mod start;

use crate::bench::goal::Goal;
use crate::bench::machine;
use crate::bench::place::Place;
use crate::bench::{check_writable, verdict};
use crate::interrupt;
use crate::say;
use crate::sides::kill_all;
use crate::workspace::{self, Profile};
use anyhow::{Result, bail};
use clap::Args;
use figure::Figure;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure how vGPUs share a device: fairness, work conservation, isolation, scale, hostile guests.
///
/// Each scenario has a paragpud of its own and loads whose results are checked. The exit status is 1 if a result was wrong or
/// a scenario failed; a figure that misses its goal is only told. docs/sharing.md has the figures. On a machine that does
/// something else meanwhile they mean little.
#[derive(Args)]
pub(crate) struct Sharing {
    /// Write the figures as JSON, anew after each scenario.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the table of figures into this document, instead of the one that is there.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// How long each load runs, instead of what its scenario says.
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// How many vGPUs the scale scenario has; half of them compute.
    #[arg(long, value_name = "N", num_args = 1.., default_values_t = [256])]
    scale: Vec<usize>,
    /// Only these scenarios.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// The OpenCL platform of the device, by its whole name.
    #[arg(long, value_name = "NAME", default_value = "Portable Computing Language")]
    platform: String,
    /// The folder of paragpu, paragpud, libparagpu_opencl.so and examples/, instead of building them.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// What a scenario is given.
struct Run<'a> {
    place: &'a Place,
    /// How long loads run, if that was said.
    seconds: Option<f64>,
    scale: &'a [usize],
}

/// The programs of the guests.
const EXAMPLES: [&str; 2] = ["device_load", "hostile_load"];

/// Something that is measured.
struct Scenario {
    name: &'static str,
    /// What it does, and how long that takes unless told otherwise.
    does: &'static str,
    measure: fn(&Run<'_>) -> Result<Vec<Figure>>,
}

static SCENARIOS: [Scenario; 10] = [
    Scenario {
        name: "weights",
        does: "three vGPUs with weights 1:2:4 compute for 10 s",
        measure: fairness::weights,
    },
    Scenario {
        name: "lengths",
        does: "three equal vGPUs with kernels of 1, 5 and 20 ms compute for 10 s",
        measure: fairness::lengths,
    },
    Scenario {
        name: "conservation",
        does: "one vGPU alone and two beside an idle one, 5 s each in turns, in about 80 s",
        measure: conservation::measure,
    },
    Scenario {
        name: "isolation",
        does: "a vGPU with short kernels beside seven that flood the device, 20 s under each of two policies",
        measure: isolation::measure,
    },
    Scenario {
        name: "start",
        does: "25 guest programs start one after the other, in about 20 s",
        measure: start::measure,
    },
    Scenario {
        name: "scale",
        does: "half of the vGPUs compute for 30 s, the others are idle; starting 256 of them takes minutes",
        measure: scale::measure,
    },
    Scenario {
        name: "doorbells",
        does: "a guest floods doorbells beside three honest ones: 30 s, and 30 s without it before and after",
        measure: hostile::doorbells,
    },
    Scenario {
        name: "endless",
        does: "a guest's kernels never end beside three honest ones: 30 s, and 30 s without it before and after",
        measure: hostile::endless,
    },
    Scenario {
        name: "allocations",
        does: "a guest allocates all it can beside three honest ones: 30 s, and 30 s without it before and after",
        measure: hostile::allocations,
    },
    Scenario {
        name: "builds",
        does: "a guest builds bombs beside three honest ones: 30 s, and 30 s without it before and after",
        measure: hostile::builds,
    },
];

impl Sharing {
    /// Measures; the exit status says whether all results were right.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let scenarios = self.chosen()?;
        check_writable(self.json.as_deref())?;
        if let Some(file) = &self.markdown {
            figure::check_markdown(file)?;
        }
        let programs = match &self.programs {
            Some(folder) => folder.clone(),
            None => build()?,
        };
        let mut place = Place::new(programs, self.platform.clone())?;
        place.check(&EXAMPLES)?;
        let files = place.files().to_owned();
        let _listening = interrupt::listen(move |signal| {
            kill_all();
            let _best_effort = std::fs::remove_dir_all(&files);
            std::process::exit(128 + signal);
        })?;
        speed::calibrate(&mut place)?;
        let run = Run { place: &place, seconds: self.seconds, scale: &self.scale };
        let (mut figures, mut failed, mut most_busy) = (Vec::new(), Vec::new(), 0.0_f64);
        for scenario in scenarios {
            let busy = machine::busy()?;
            most_busy = most_busy.max(busy);
            if busy > machine::QUIET {
                tell(format!("the machine is busy with something else ({busy:.0} %): figures mean little"));
            }
            say::step("bench", format!("{}: {}", scenario.name, scenario.does));
            if let Some(seconds) = self.seconds {
                tell(format!("each load runs for {seconds} s instead"));
            }
            let begun = Instant::now();
            let right = match (scenario.measure)(&run) {
                Ok(found) => {
                    figures.extend(found);
                    1.0
                }
                Err(error) => {
                    say::error(&error.context(scenario.name));
                    failed.push(scenario.name);
                    0.0
                }
            };
            let name = format!("{}: all results are right", scenario.name);
            figures.push(Figure::new(name, right, "", Goal::AtLeast(1.0)));
            tell(format!("done in {:.0} s", begun.elapsed().as_secs_f64()));
            if let Some(file) = &self.json {
                figure::write_json(file, &[&figures[..], &[busy_before(most_busy)]].concat())?;
            }
        }
        figures.push(busy_before(most_busy));
        print!("{}", figure::table(&figures));
        if let Some(file) = &self.markdown {
            figure::write_markdown(file, &figures)?;
        }
        let missed = figures.iter().filter(|figure| figure.met() == Some(false)).count();
        println!("\n{}", verdict(figures.len(), &failed, missed));
        Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn chosen(&self) -> Result<Vec<&'static Scenario>> {
        if let Some(name) = self.only.iter().find(|name| !SCENARIOS.iter().any(|known| known.name == **name))
        {
            let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            let names = names.join(", ");
            bail!("there is no scenario {name}; there are {names}");
        }
        let is_chosen =
            |scenario: &&Scenario| self.only.is_empty() || self.only.iter().any(|name| name == scenario.name);
        Ok(SCENARIOS.iter().filter(is_chosen).collect())
    }
}

fn busy_before(most: f64) -> Figure {
    let name = "the machine: busy with something else, most before a scenario";
    Figure::new(name, most, "%", Goal::None)
}

/// Builds what is measured, and gives its folder.
fn build() -> Result<PathBuf> {
    workspace::build(Profile::Release, &["-p", "paragpu", "-p", "paragpu-opencl"])?;
    for example in EXAMPLES {
        workspace::build_example(Profile::Release, example)?;
    }
    Ok(workspace::target_directory()?.join(Profile::Release.folder()))
}

/// Tells something of the scenario that runs.
fn tell(text: impl std::fmt::Display) {
    say::step("bench", format!("    {text}"));
}
