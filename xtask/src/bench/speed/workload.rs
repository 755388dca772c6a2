//! What there is to measure, and what it is to be.

use crate::bench::goal::Goal;
use anyhow::{Result, bail};

/// Something that the worker (`examples/speed`) measures.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    /// Its name, from its group on, as the worker knows it.
    pub(super) name: String,
    pub(super) goal: Goal,
    /// What its 99th percentile is to be, if that is told.
    pub(super) tail: Option<Goal>,
    /// Samples of each side that there must be, however long that takes.
    pub(super) samples: usize,
    /// Whether a sample is unlike those before it for good, so that none may be wasted on warming up.
    pub(super) is_costly: bool,
}

/// For a device that shares memory with the host, as the CPU does.
const SMALL: f64 = 0.5;

impl Workload {
    fn new(name: impl Into<String>, goal: Goal) -> Workload {
        Workload { name: name.into(), goal, tail: None, samples: 1, is_costly: false }
    }

    /// All of them.
    pub(super) fn all() -> Vec<Workload> {
        let mut all = vec![
            Workload {
                tail: Some(Goal::AtMost(1.2)),
                samples: 2000,
                ..Workload::new("latency/empty-kernel", Goal::AtMost(1.1))
            },
            Workload { samples: 1000, ..Workload::new("latency/read-4-bytes", Goal::None) },
            Workload { samples: 1000, ..Workload::new("latency/two-queues", Goal::None) },
            Workload { samples: 1000, ..Workload::new("latency/user-event", Goal::None) },
        ];
        for name in ["one-queue", "four-queues", "arguments", "buffers-in-turn", "buffers-at-once"] {
            all.push(Workload::new(format!("throughput/{name}"), Goal::AtMost(1.0)));
        }
        for operation in ["read", "write", "copy", "fill", "map"] {
            for kind in ["plain", "alloc-host", "use-host"] {
                for size in ["4K", "64K", "1M", "16M", "256M"] {
                    let goal = match (operation, size) {
                        ("read" | "write", "4K" | "64K") => Goal::AtMost(SMALL),
                        ("read" | "write" | "map", "1M" | "16M" | "256M") => Goal::AtMost(1.0),
                        _ => Goal::None,
                    };
                    all.push(Workload::new(format!("data/{operation}/{kind}/{size}"), goal));
                }
            }
        }
        let build = |name: &str, goal| {
            let is_costly = name.starts_with("build/first");
            Workload { is_costly, ..Workload::new(name, goal) }
        };
        all.extend([
            build("build/first", Goal::AtMost(1.05)),
            build("build/first-launch", Goal::AtMost(1.05)),
            build("build/again", Goal::AtMost(0.2)),
            build("build/again-launch", Goal::None),
        ]);
        for name in ["matmul", "stencil", "reduction", "fft", "nbody", "filters", "training"] {
            all.push(Workload::new(format!("applications/{name}"), Goal::None));
        }
        all
    }

    /// What it is to be in units of a peer that forwards the same calls over a socket: launches that stream by 100 times
    /// ahead, mapping by 50, and all else ahead.
    pub(super) fn against_peer(&self) -> Goal {
        let parts: Vec<&str> = self.name.split('/').collect();
        Goal::AtMost(match parts[..] {
            ["throughput", "one-queue" | "four-queues"] => 0.01,
            ["data", "map", _, "1M" | "16M" | "256M"] => 0.02,
            _ => 1.0,
        })
    }

    /// Those that names choose: each is a workload's or the beginning of several, such as `data/read`.
    pub(super) fn chosen(names: &[String], others: &[String]) -> Result<Vec<Workload>> {
        let all = Workload::all();
        for name in names {
            if !all.iter().any(|workload| covers(name, &workload.name))
                && !others.iter().any(|other| covers(name, other))
            {
                bail!("there is no workload {name}; --list tells which there are");
            }
        }
        let is_chosen = |workload: &Workload| is_chosen(names, &workload.name);
        Ok(all.into_iter().filter(is_chosen).collect())
    }
}

/// Whether one of these names, if there are any, chooses this.
pub(super) fn is_chosen(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|chosen| covers(chosen, name))
}

fn covers(chosen: &str, name: &str) -> bool {
    name.strip_prefix(chosen).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::Workload;
    use crate::bench::goal::Goal;

    #[test]
    fn a_name_chooses_what_it_begins_and_nothing_that_it_only_resembles() {
        let count = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Workload::chosen(&names, &["idle".to_owned()]).map(|chosen| chosen.len())
        };
        assert_eq!(count(&[]).unwrap(), Workload::all().len());
        assert_eq!(count(&["data"]).unwrap(), 75);
        assert_eq!(count(&["data/read/plain", "latency/empty-kernel"]).unwrap(), 6);
        assert_eq!(count(&["build/first"]).unwrap(), 1);
        assert_eq!(count(&["idle"]).unwrap(), 0);
        assert!(count(&["data/rea"]).unwrap_err().to_string().contains("data/rea; --list"));
    }

    #[test]
    fn every_workload_is_to_be_ahead_of_a_peer_and_some_by_far() {
        for workload in Workload::all() {
            let goal = match &workload.name[..] {
                "throughput/one-queue" | "throughput/four-queues" => Goal::AtMost(0.01),
                name if name.starts_with("data/map") && name.ends_with('M') => Goal::AtMost(0.02),
                _ => Goal::AtMost(1.0),
            };
            assert_eq!(workload.against_peer(), goal, "{}", workload.name);
        }
    }
}
