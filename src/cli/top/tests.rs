use super::model::Wait;
use super::*;
use crate::admin::api::{Connection, Counted, Device, Queueing, Vgpu};
use crate::registry::Origin;
use crate::sched::usage::Standing;

fn vgpu(name: &str, device_ms: u64, memory: u64) -> Vgpu {
    let settings = serde_json::json!({"policy": "weighted", "weight": 100, "memory": "1 GiB", "cap": "none"});
    Vgpu {
        name: name.to_owned(),
        origin: Origin::File,
        standing: Standing::Running,
        paused: false,
        settings: settings.as_object().unwrap().clone(),
        usage: Counted {
            device_ns: device_ms * 1_000_000,
            launches: device_ms * 2,
            bytes_to_device: device_ms << 20,
            bytes_from_device: 0,
            memory_bytes: memory,
        },
        queueing: Queueing {
            bounds_us: vec![100, 1000],
            counts: vec![device_ms, device_ms / 10, 0],
            sum_ns: 0,
        },
        evictions: 3,
        cpu_ns: 0,
        connections: vec![Connection { name: name.to_owned(), pid: None, uid: None, since: 0 }],
        processes: Vec::new(),
    }
}

fn sample(start: Instant, seconds: u64, vgpus: Vec<Vgpu>, busy_ms: u64) -> Sample {
    let device = Device {
        name: "cpu".to_owned(),
        leases: 1,
        slice_ms: 8.0,
        busy_ns: busy_ms * 1_000_000,
        holders: vec!["b".to_owned()],
        waiting: vec!["a".to_owned()],
    };
    Sample { at: start + Duration::from_secs(seconds), vgpus, devices: vec![device] }
}

fn two_seconds() -> Model {
    let start = Instant::now();
    let mut model = Model::default();
    model.add(sample(start, 0, vec![vgpu("a", 0, 0), vgpu("b", 1000, 0)], 1000));
    model.add(sample(
        start,
        2,
        vec![vgpu("a", 500, 256 << 20), vgpu("b", 2500, 1 << 30), vgpu("c", 9, 0)],
        2500,
    ));
    model
}

#[test]
fn rates_are_what_happened_between_two_samples() {
    let model = two_seconds();
    let rows = model.rows();
    let shown: Vec<(&str, f64, f64)> =
        rows.iter().map(|row| (row.name.as_str(), row.device, row.launches)).collect();
    assert_eq!(shown, [("b", 0.75, 1500.0), ("a", 0.25, 500.0), ("c", 0.0, 0.0)]);
    // Of 550 waits, 500 ended within 100 µs: 99 of 100 are 545.
    assert_eq!(rows[1].wait, Some(Wait::Within(1000)));
    assert_eq!(rows[2].wait, None);
    assert_eq!(model.devices()[0].busy, 0.75);
    assert_eq!(model.devices()[0].history, [75]);
}

#[test]
fn a_frame_has_bars_numbers_and_who_has_and_wants_the_device() {
    let text = render(&two_seconds(), 140);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "paragpu  3 vGPUs, 3 connected, 3 running");
    assert!(lines[1].starts_with("cpu             ███████████████       75%"), "{text}");
    assert!(lines[1].ends_with("▆  b  waiting: a"), "{text}");
    let words: Vec<&str> = lines[4].split_whitespace().collect();
    let expected = [
        "b",
        "running",
        "weighted",
        "100",
        "██████",
        "75%",
        "████████",
        "1.0",
        "GiB",
        "1.5k",
        "750",
        "MiB",
        "0",
        "B",
        "<1.0",
        "ms",
        "3",
    ];
    assert_eq!(words, expected, "{text}");
    assert_eq!(lines.len(), 3 + 1 + 3, "{text}");
}

#[test]
fn only_a_live_frame_ends_with_what_its_keys_do() {
    let model = two_seconds();
    let height = draw::height(&model);
    let mut terminal = Terminal::new(TestBackend::new(140, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, &model)).unwrap();
    let buffer = terminal.backend().buffer();
    let last: String = (0..140).map(|column| buffer[(column, height - 1)].symbol()).collect();
    assert!(last.contains("s sort (by device)"), "{last}");
    assert!(!render(&model, 140).contains("sort"));
}

#[test]
fn rows_are_sorted_and_chosen_by_keys() {
    let mut model = two_seconds();
    assert_eq!(model.selected(), None);
    model.select(1);
    assert_eq!(model.selected(), Some(("b".to_owned(), false)));
    model.select(1);
    model.select(5);
    assert_eq!(model.selected(), Some(("c".to_owned(), false)));
    while model.sort().name() != "name" {
        model.sort_by_next();
    }
    let names: Vec<String> = model.rows().into_iter().map(|row| row.name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    model.select(-9);
    assert_eq!(model.selected(), Some(("a".to_owned(), false)));
}

#[test]
fn a_frame_of_any_size_is_no_panic() {
    let model = two_seconds();
    for (width, height) in [(1, 1), (3, 2), (10, 5), (80, 3), (500, 100)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw::draw(frame, &model)).unwrap();
    }
    render(&Model::default(), 20);
}

#[test]
fn bars_are_as_long_as_their_part() {
    assert_eq!(draw::bar(0.0, 4), "    ");
    assert_eq!(draw::bar(0.5, 4), "██  ");
    assert_eq!(draw::bar(0.53, 4), "██▏ ");
    assert_eq!(draw::bar(1.7, 4), "████");
    assert_eq!(draw::bar(f64::NAN, 4), "    ");
}
