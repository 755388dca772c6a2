//! A timeline of leases and commands, as a file that <https://ui.perfetto.dev> and `chrome://tracing` open.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::json;

/// Most events of one timeline; what comes beyond is counted, not kept. They are some fifty megabytes then.
const MAX_EVENTS: usize = 400_000;

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    events: Vec<Event>,
    vgpus: Numbers<String>,
    tracks: Numbers<(u32, Track)>,
    names: Numbers<String>,
    lost: u64,
}

/// A span, with numbers for names: there are many.
#[derive(Clone, Copy, Debug)]
struct Event {
    track: u32,
    name: u32,
    begin: u64,
    end: u64,
}

/// Things by the numbers that they are given when they first come.
#[derive(Debug)]
struct Numbers<T> {
    known: HashMap<T, u32>,
    things: Vec<T>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Numbers<T> {
        Numbers { known: HashMap::new(), things: Vec::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Numbers<T> {
    fn of(&mut self, thing: T) -> u32 {
        if let Some(number) = self.known.get(&thing) {
            return *number;
        }
        let number = self.things.len() as u32;
        self.things.push(thing.clone());
        self.known.insert(thing, number);
        number
    }
}

/// A timeline in the format of Chrome's trace events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The file.
    pub json: String,
}

impl Timeline {
    pub(super) fn add(&mut self, span: Span) {
        if self.events.len() >= MAX_EVENTS {
            return self.lose(1);
        }
        let Span { vgpu, track, name, begin, end } = span;
        let vgpu = self.vgpus.of(vgpu);
        let (track, name) = (self.tracks.of((vgpu, track)), self.names.of(name));
        self.events.push(Event { track, name, begin, end });
    }

    /// There were more, of which nothing is known.
    pub(super) fn lose(&mut self, events: u64) {
        self.lost = self.lost.saturating_add(events);
    }

    /// The file: what happened from `start` to `end`, with times since `start`.
    pub(super) fn finish(self, start: u64, end: u64) -> Trace {
        let mut json = String::from("{\"traceEvents\":[");
        let mut separator = "\n";
        let mut add = |event: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ok = write!(json, "{separator}{event}");
            separator = ",\n";
        };
        for (number, name) in self.vgpus.things.iter().enumerate() {
            let pid = number + 1;
            add(format_args!(
                "{}",
                json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}})
            ));
        }
        for (number, (vgpu, track)) in self.tracks.things.iter().enumerate() {
            // Within a vGPU: when it has the device and when not, then what it does.
            let (name, order) = match track {
                Track::Wait(device) => (format!("waits for {device}"), 0),
                Track::Lease(device) => (format!("has {device}"), 1),
                Track::Process(context, name) => (format!("{name} (context {context})"), 2),
            };
            let (pid, tid) = (vgpu + 1, number + 1);
            for (kind, args) in
                [("thread_name", json!({"name": name})), ("thread_sort_index", json!({"sort_index": order}))]
            {
                let event = json!({"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args});
                add(format_args!("{event}"));
            }
        }
        let names: Vec<String> = self.names.things.iter().map(|name| json!(name).to_string()).collect();
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        for event in &self.events {
            // Times are executors' words.
            let (from, to) = (event.begin.clamp(start, end), event.end.clamp(start, end));
            if event.end <= start || event.begin >= end || to < from {
                continue;
            }
            let (name, vgpu) = (&names[event.name as usize], self.tracks.things[event.track as usize].0);
            let (pid, tid, ts, dur) = (vgpu + 1, event.track + 1, micros(from - start), micros(to - from));
            add(format_args!(
                r#"{{"ph":"X","name":{name},"pid":{pid},"tid":{tid},"ts":{ts:.3},"dur":{dur:.3}}}"#
            ));
        }
        let _ok = write!(json, "\n],\"displayTimeUnit\":\"ms\",\"lostEvents\":{}}}\n", self.lost);
        Trace { json }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(vgpu: &str, track: Track, begin: u64, end: u64) -> Span {
        Span { vgpu: vgpu.into(), track, name: "ker\"nel".into(), begin, end }
    }

    fn finish(timeline: Timeline, start: u64, end: u64) -> serde_json::Value {
        serde_json::from_str(&timeline.finish(start, end).json).unwrap()
    }

    #[test]
    fn every_vgpu_has_tracks_of_its_own_and_times_count_from_the_start() {
        let mut timeline = Timeline::default();
        timeline.add(span("a", Track::Lease("cpu".into()), 500, 3_000));
        timeline.add(span("a", Track::Process(1, "app".into()), 2_000, 3_000));
        timeline.add(span("b", Track::Lease("cpu".into()), 3_000, 4_500));
        let trace = finish(timeline, 1_000, 9_000);
        let events = trace["traceEvents"].as_array().unwrap();
        let spans: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(spans.len(), 3);
        assert_eq!((spans[0]["ts"].as_f64(), spans[0]["dur"].as_f64()), (Some(0.0), Some(2.0)));
        assert_eq!(spans[0]["name"], "ker\"nel");
        assert_eq!(spans[0]["pid"], spans[1]["pid"]);
        assert_ne!(spans[0]["tid"], spans[1]["tid"]);
        assert_ne!(spans[0]["pid"], spans[2]["pid"]);
        let named = |event: &&serde_json::Value| event["args"]["name"].is_string();
        let names: Vec<_> = events.iter().filter(named).map(|event| &event["args"]["name"]).collect();
        assert_eq!(names, ["a", "b", "has cpu", "app (context 1)", "has cpu"]);
    }

    #[test]
    fn what_lies_outside_is_cut_off_and_nonsense_is_left_out() {
        let mut timeline = Timeline::default();
        for (begin, end) in [(0, 1_000), (0, u64::MAX), (5_000, 4_000), (u64::MAX, 0), (9_000, 9_500)] {
            timeline.add(span("a", Track::Lease("cpu".into()), begin, end));
        }
        timeline.lose(u64::MAX);
        timeline.lose(1);
        let trace = finish(timeline, 1_000, 9_000);
        assert_eq!(trace["lostEvents"], u64::MAX);
        let events = trace["traceEvents"].as_array().unwrap();
        let spans: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(spans.len(), 1);
        assert_eq!((spans[0]["ts"].as_f64(), spans[0]["dur"].as_f64()), (Some(0.0), Some(8.0)));
    }

    #[test]
    fn there_is_an_end_of_events() {
        let mut timeline = Timeline::default();
        for _ in 0..MAX_EVENTS + 5 {
            timeline.add(span("a", Track::Lease("cpu".into()), 1, 2));
        }
        assert_eq!((timeline.events.len(), timeline.lost), (MAX_EVENTS, 5));
    }
}
