//! A timeline of leases and commands, as a file that <https://ui.perfetto.dev> and `chrome://tracing` open.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

/// Most events of one timeline; what comes beyond is counted, not kept.
const MAX_EVENTS: usize = 1_000_000;

/// A stretch of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) vgpu: String,
    pub(super) track: Track,
    pub(super) name: String,
    /// Nanoseconds of the monotonic clock.
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// Where in the timeline of a vGPU it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Track {
    /// Waiting for a device, by its name.
    Wait(String),
    /// Having a device, by its name.
    Lease(String),
    /// Commands of a guest process, by its context and the name of that.
    Process(u32, String),
}

/// A timeline while it is being made.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    spans: Vec<Span>,
    lost: u64,
}

/// A timeline in the format of Chrome's trace events.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    trace_events: Vec<Value>,
    display_time_unit: &'static str,
    /// Events that were too many to be kept.
    lost_events: u64,
}

impl Timeline {
    pub(super) fn add(&mut self, span: Span) {
        if self.spans.len() < MAX_EVENTS { self.spans.push(span) } else { self.lost += 1 }
    }

    /// The file, with times since `start`.
    pub(super) fn finish(self, start: u64) -> Trace {
        let mut tracks: BTreeMap<(String, Track), (usize, usize)> = BTreeMap::new();
        let mut vgpus: BTreeMap<String, usize> = BTreeMap::new();
        for span in &self.spans {
            let count = vgpus.len();
            vgpus.entry(span.vgpu.clone()).or_insert(count + 1);
        }
        for span in &self.spans {
            let vgpu = vgpus[&span.vgpu];
            let count = tracks.len();
            tracks.entry((span.vgpu.clone(), span.track.clone())).or_insert((vgpu, count + 1));
        }
        let mut events: Vec<Value> = vgpus
            .iter()
            .map(|(name, number)| json!({"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}))
            .collect();
        for ((_, track), (vgpu, number)) in &tracks {
            let name = match track {
                Track::Wait(device) => format!("waits for {device}"),
                Track::Lease(device) => format!("has {device}"),
                Track::Process(context, name) => format!("{name} (context {context})"),
            };
            events.push(
                json!({"ph": "M", "name": "thread_name", "pid": vgpu, "tid": number, "args": {"name": name}}),
            );
        }
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        for span in &self.spans {
            let (vgpu, track) = tracks[&(span.vgpu.clone(), span.track.clone())];
            let begin = span.begin.max(start);
            let (ts, dur) = (micros(begin - start), micros(span.end.saturating_sub(begin)));
            events
                .push(json!({"ph": "X", "name": span.name, "pid": vgpu, "tid": track, "ts": ts, "dur": dur}));
        }
        Trace { trace_events: events, display_time_unit: "ms", lost_events: self.lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vgpu_has_tracks_of_its_own_and_times_count_from_the_start() {
        let mut timeline = Timeline::default();
        let span = |vgpu: &str, track: Track, begin, end| Span {
            vgpu: vgpu.into(),
            track,
            name: "kernel".into(),
            begin,
            end,
        };
        timeline.add(span("a", Track::Lease("cpu".into()), 500, 3_000));
        timeline.add(span("a", Track::Process(1, "app".into()), 2_000, 3_000));
        timeline.add(span("b", Track::Lease("cpu".into()), 3_000, 4_500));
        let trace = serde_json::to_value(timeline.finish(1_000)).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let spans: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(spans.len(), 3);
        assert_eq!((spans[0]["ts"].as_f64(), spans[0]["dur"].as_f64()), (Some(0.0), Some(2.0)));
        assert_eq!(spans[0]["pid"], spans[1]["pid"]);
        assert_ne!(spans[0]["tid"], spans[1]["tid"]);
        assert_ne!(spans[0]["pid"], spans[2]["pid"]);
        let names: Vec<_> =
            events.iter().filter(|event| event["ph"] == "M").map(|event| &event["args"]["name"]).collect();
        assert_eq!(names, ["a", "b", "has cpu", "app (context 1)", "has cpu"]);
    }
}
