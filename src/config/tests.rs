use super::*;
use crate::executor::devices::{DeviceChoice, HostDeviceInfo, Part};
use crate::sched::policy::{Eviction, Policy, Terms};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use std::path::Path;
use std::time::Duration;

fn wrong(text: &str) -> Vec<String> {
    match Config::parse(text) {
        Ok(config) => panic!("nothing is wrong with {text:?}: {config:?}"),
        Err(problems) => problems.in_file(Path::new("p.toml")),
    }
}

#[test]
fn an_empty_configuration_is_the_defaults() {
    let config = Config::parse("").unwrap();
    assert_eq!(config.default, Settings::default());
    assert!(config.vgpus.is_empty() && config.devices.is_empty() && config.admin_socket.is_none());
}

#[test]
fn what_is_wrong_is_said_with_its_line_its_value_and_what_is_allowed() {
    let vgpu = |rest: &str| format!("[[vgpu]]\nname = \"a\"\nsocket = \"/r/a\"\n{rest}\n");
    let table: Vec<(String, &[&str])> = vec![
        (vgpu("weight = 0"), &["p.toml:4:10: vgpu.a.weight = 0: allowed are integers from 1 to 10000"]),
        (
            vgpu("wieght = 5"),
            &[
                "p.toml:4:1: vgpu.a.wieght: unknown key; did you mean weight? (keys here: name, socket, mode, owner, \
                 group, policy, weight, share, deadline-ms, cap, memory, devices, connections, share-builds, limits, eviction)",
            ],
        ),
        (
            vgpu("policy = \"best-effort\"\nweight = 5"),
            &["p.toml:5:10: vgpu.a.weight = 5: weight goes with policy = \"weighted\"; here the policy is \
                 \"best-effort\""],
        ),
        (
            vgpu("policy = \"fixed-share\""),
            &[
                "p.toml:4:10: vgpu.a.policy = \"fixed-share\": fixed-share needs a share: add share = PER CENT",
            ],
        ),
        (
            vgpu("policy = \"fastest\""),
            &["p.toml:4:10: vgpu.a.policy = \"fastest\": allowed are \"best-effort\", \"equal-share\", \
                 \"fixed-share\", \"weighted\", \"deadline\""],
        ),
        (
            vgpu("cap = 101\nmode = \"rw\"\nconnections = \"8\""),
            &[
                "p.toml:4:7: vgpu.a.cap = 101: allowed are numbers from 0.1 to 100 (per cent); or \"none\"",
                "p.toml:5:8: vgpu.a.mode = \"rw\": permissions are octal in quotes, such as \"0660\", of read and \
                 write bits",
                "p.toml:6:15: vgpu.a.connections = \"8\": this is text; allowed are integers from 1 to 512",
            ],
        ),
        (
            vgpu("[vgpu.limits]\nstaging = \"1 XB\"\nbuilds = 1.5"),
            &[
                "p.toml:5:11: vgpu.a.limits.staging = \"1 XB\": allowed are sizes such as \"2 GiB\" from 16 MiB to \
                 1024 TiB; or \"none\"",
                "p.toml:6:10: vgpu.a.limits.builds = 1.5: this is a number; allowed are integers from 1 to 4",
            ],
        ),
        (
            vgpu("[[vgpu]]\nname = \"a\"\nsocket = \"/r/b\""),
            &["p.toml:5:8: vgpu.a.name = \"a\": two vGPUs have this name: give one another"],
        ),
        (
            vgpu("[[vgpu]]\nname = \"b\"\nsocket = \"/r/a\""),
            &["p.toml:6:10: vgpu.b.socket = \"/r/a\": vGPU a has this path already: each needs its own"],
        ),
        (
            vgpu(
                "policy = \"fixed-share\"\nshare = 60\n[[vgpu]]\nname = \"b\"\nsocket = \"/r/b\"\npolicy = \
                  \"fixed-share\"\nshare = 50",
            ),
            &[
                "p.toml:10:9: vgpu.b.share = 50: the fixed shares on device the host are 110 % with this one: lower \
                 one so that they are at most 100 %",
            ],
        ),
        (
            vgpu("devices = [\"gpu\"]\n[[device]]\nname = \"cpu\"\npartitions = [1, 1]"),
            &[
                "p.toml:4:11: vgpu.a.devices = [\"gpu\"]: no [[device]] is named \"gpu\"; there are cpu/0, cpu/1",
            ],
        ),
        (
            "admin-socket = \"/r/a\"\n".to_owned() + &vgpu(""),
            &["p.toml:4:10: vgpu.a.socket = \"/r/a\": admin-socket has this path already"],
        ),
        (
            "[[vgpu]]\nname = \"../x\"\nsocket = \"r\"".to_owned(),
            &[
                "p.toml:2:8: vgpu[0].name = \"../x\": a name is 1 to 64 of A-Z a-z 0-9 . _ -, and starts with a \
                 letter or digit",
                "p.toml:3:10: vgpu[0].socket = \"r\": a path must begin with /",
            ],
        ),
        (
            "[[vgpu]]\nname = \"a\"".to_owned(),
            &["p.toml:1:1: vgpu.a.socket: missing: say where this vGPU's socket is"],
        ),
        (
            "metrics = \"localhost\"".to_owned(),
            &[
                "p.toml:1:11: metrics = \"localhost\": invalid socket address syntax: an address and a port are \
                 wanted, such as \"127.0.0.1:9920\"",
            ],
        ),
        (
            "[default]\neviction = { back-off-ms = 2000, max-back-off-s = 1 }".to_owned(),
            &["p.toml:2:51: default.eviction.max-back-off-s = 1: max-back-off-s must not be shorter than \
                 back-off-ms"],
        ),
        (
            "vgpu = 3\ndefault = []".to_owned(),
            &[
                "p.toml:1:8: vgpu = 3: this is an integer; write it as [[vgpu]]",
                "p.toml:2:11: default = []: this is a list; a table is wanted",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(wrong(&text), expected, "{text}");
    }
    assert!(wrong("x = [")[0].starts_with("p.toml:1:6: this is not TOML: "), "{:?}", wrong("x = ["));
    assert!(
        wrong("a = 1\na = 2")[0].starts_with("p.toml:2:1: this is not TOML: "),
        "{:?}",
        wrong("a = 1\na = 2")
    );
}

#[test]
fn a_vgpu_is_as_default_says_where_it_says_nothing() {
    let text = r#"
        [default]
        weight = 300
        memory = "25%"
        limits = { builds = 2 }
        [[vgpu]]
        name = "a"
        socket = "/r/a"
        group = "kvm"
        limits = { contexts = 3 }
        [[vgpu]]
        name = "b"
        socket = "/r/b"
        policy = "best-effort"
        memory = "none"
    "#;
    let config = Config::parse(text).unwrap();
    let [a, b] = config.vgpus.as_slice() else { panic!("{config:?}") };
    assert_eq!(a.settings.terms.policy, Policy::Weighted { weight: 300 });
    assert_eq!((a.settings.limits.builds, a.settings.limits.contexts), (2, 3));
    assert_eq!(a.settings.memory, Some(Quota::PerCent(25.0)));
    assert_eq!((a.socket.mode, &a.socket.group), (0o660, &Some(Identity::Name("kvm".to_owned()))));
    assert_eq!(b.settings.terms.policy, Policy::BestEffort);
    assert_eq!((b.settings.memory, b.socket.mode), (None, 0o600));
}

#[test]
fn a_change_keeps_what_it_does_not_name_and_null_is_the_default() {
    let default = Settings::default();
    let change =
        |base: &Settings, json: serde_json::Value| read_settings(json.as_object().unwrap(), &default, base);
    let base =
        change(&default, serde_json::json!({"weight": 7, "cap": 30, "limits": {"builds": 1}})).unwrap();
    assert_eq!(base.terms.policy, Policy::Weighted { weight: 7 });
    let next = change(&base, serde_json::json!({"cap": null, "limits": {"contexts": 5}})).unwrap();
    assert_eq!(next.terms, Terms { cap: None, ..base.terms });
    assert_eq!((next.limits.builds, next.limits.contexts), (1, 5));
    assert_eq!(change(&next, serde_json::json!({"limits": null})).unwrap().limits, Limits::default());
    let error = change(&base, serde_json::json!({"share": 5})).unwrap_err();
    assert_eq!(error.iter().next().unwrap().key, "share");
    // Whoever changes the policy does not keep the other one's numbers.
    let fixed = change(&base, serde_json::json!({"policy": "fixed-share", "share": 5})).unwrap();
    assert_eq!(fixed.terms.policy, Policy::FixedShare { share: 5.0 });
    let weighted = change(&fixed, serde_json::json!({"policy": "weighted"})).unwrap();
    assert_eq!(weighted.terms.policy, Policy::Weighted { weight: 100 });
}

#[test]
fn devices_quotas_and_partitions_are_held_against_the_host() {
    let host = |platform: &str, index: u32, name: &str, gib: u64| HostDeviceInfo {
        platform: platform.to_owned(),
        index,
        name: name.to_owned(),
        memory_bytes: gib << 30,
        compute_units: 4,
        is_default: platform == "One",
    };
    let hosts = [host("One", 0, "cpu-a", 4), host("One", 1, "gpu-b", 8), host("Two", 0, "cpu-c", 2)];
    let check = |text: &str| check_against_host(&Config::parse(text).unwrap(), &hosts);
    let wrong = |text: &str| check(text).unwrap_err().to_string();
    let device = |name: &str, fits: &str| {
        format!("[[device]]\nname = \"{name}\"\nplatform = \"One\"\ndevice = \"{fits}\"\n")
    };
    let vgpu = "[[vgpu]]\nname = \"a\"\nsocket = \"/r/a\"\nmemory = ";
    let shared = check(&format!("{}partitions = [3, 1]\n{vgpu}\"4 GiB\"", device("one", "gpu"))).unwrap();
    assert_eq!(shared.len(), 2);
    let part = Some(Part { units: vec![3, 1], index: 1 });
    assert_eq!(shared[1].choice, Some(DeviceChoice { platform: "One".to_owned(), index: 1, part }));
    assert_eq!((shared[1].name.as_str(), shared[1].memory_bytes), ("one/1", Some(8 << 30)));
    assert_eq!(
        wrong(&format!("{}{vgpu}\"5 GiB\"", device("one", "cpu"))),
        "line 8, column 10: vgpu.a.memory = \"5 GiB\": device one has 4 GiB: a quota must be within that"
    );
    assert!(
        wrong(&format!("{}partitions = [2, 3]", device("one", "cpu")))
            .contains("5 compute units in all, and cpu-a has 4")
    );
    assert!(
        wrong(&device("one", "tpu")).contains("line 4, column 10: device.one.device = \"tpu\": no device")
    );
    assert!(wrong(&device("one", "")).contains("several devices fit"));
    let two = device("one", "cpu") + &device("two", "cpu").replace("One", "Two");
    assert!(
        wrong(&format!("{two}{vgpu}\"1 GiB\""))
            .contains("vgpu.a.devices: devices one and two are of different OpenCL platforms")
    );
    assert!(check(&format!("{two}{vgpu}\"1 GiB\"\ndevices = [\"two\"]")).is_ok());
    // Without any, those that are shared where nothing is said.
    assert!(wrong("socket = \"/r/s\"\n[default]\nmemory = \"6 GiB\"").contains("device cpu-a has 4 GiB"));
    assert_eq!(check("").unwrap().len(), 2);
}

#[test]
fn a_quota_in_per_cent_is_of_the_memory_that_there_is() {
    let half = Settings { memory: Some(Quota::PerCent(50.0)), ..Settings::default() };
    assert_eq!(half.session_limits(Some(4 << 30)).memory_bytes, Some(2 << 30));
    assert_eq!(half.session_limits(None).memory_bytes, None);
}

#[test]
fn settings_of_which_nothing_is_said_limit_a_session_as_ever() {
    assert_eq!(Settings::default().session_limits(None), crate::limits::Limits::default());
}

#[test]
fn depth_and_length_are_no_way_to_end_the_daemon() {
    let deep = |open: &str, close: &str| format!("x = {}1{}", open.repeat(100_000), close.repeat(100_000));
    assert!(Config::parse(&deep("[", "]")).is_err());
    assert!(Config::parse(&deep("{x = ", "}")).is_err());
    assert!(Config::parse(&format!("[{}x]", "x.".repeat(100_000))).is_err());
    let many: String = (0..2000).map(|key| format!("k{key} = 1\n")).collect();
    assert!(wrong(&many).len() <= 100);
}

/// A table in TOML's inline form: the values that settings have look the same in both languages.
fn inline(json: &serde_json::Value) -> String {
    match json {
        serde_json::Value::Object(table) => {
            let keys: Vec<String> =
                table.iter().map(|(key, value)| format!("{key} = {}", inline(value))).collect();
            format!("{{ {} }}", keys.join(", "))
        }
        other => other.to_string(),
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    let share = (1..=1000_u32).prop_map(|tenths| f64::from(tenths) / 10.0);
    prop_oneof![
        Just(Policy::BestEffort),
        Just(Policy::EqualShare),
        share.clone().prop_map(|share| Policy::FixedShare { share }),
        (1..=settings::MAX_WEIGHT).prop_map(|weight| Policy::Weighted { weight }),
        (1..=settings::MAX_DEADLINE_MS, share)
            .prop_map(|(target_ms, share)| Policy::Deadline { target_ms, share }),
    ]
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let size = || prop::option::of((64_u64 << 20)..settings::MAX_BYTES);
    let eviction = (100..86_400_000_u64, 1..1000_u64, 0..=settings::MAX_PAUSE_AFTER).prop_map(
        |(limit, back_off, pause_after)| Eviction {
            limit: Duration::from_millis(limit),
            back_off: Duration::from_millis(back_off),
            max_back_off: Duration::from_millis(back_off * 3),
            pause_after,
        },
    );
    let limits =
        (1..=256_u32, 64..=1_u32 << 20, size(), prop::option::of(1..=1000_u32), 1..=4_u32, size(), size())
            .prop_map(|(contexts, objects, staging, rate, builds, build_memory, executor_memory)| Limits {
                contexts,
                objects,
                staging,
                commands_per_second: rate,
                command_burst: rate.map(|rate| rate * 2),
                requests_per_second: rate.map(|rate| rate * 3),
                builds,
                build_seconds: builds * 7,
                build_memory: build_memory.unwrap_or(64 << 20),
                executor_memory,
                executor_cpu: rate,
                processes: rate.map(|rate| rate + 16),
                executor_idle_seconds: rate,
            });
    let quota = prop::option::of(prop_oneof![
        ((1_u64 << 20)..settings::MAX_BYTES).prop_map(Quota::Bytes),
        (1..=1000_u32).prop_map(|tenths| Quota::PerCent(f64::from(tenths) / 10.0)),
    ]);
    let cap = prop::option::of((1..=1000_u32).prop_map(|tenths| f64::from(tenths) / 10.0));
    (policies(), cap, eviction, limits, quota, (1..=512_u32, any::<bool>())).prop_map(
        |(policy, cap, eviction, limits, memory, (connections, share_builds))| Settings {
            terms: Terms { policy, cap, eviction },
            memory,
            devices: Vec::new(),
            connections,
            share_builds,
            limits,
        },
    )
}

proptest! {
    #[test]
    fn settings_that_are_written_out_are_read_as_the_same(settings in any_settings(), mode in 0..=0o666_u32) {
        let socket = Socket { mode: mode & 0o666, ..Socket::private("/r/a b".into()) };
        let spec = VgpuSpec { name: "a".to_owned(), socket, settings };
        let json = spec.to_json();
        prop_assert_eq!(&read_vgpu("a", &json, &Settings::default(), None).unwrap(), &spec);
        let mut named = json;
        named.insert("name".to_owned(), "a".into());
        let text = format!("vgpu = [ {} ]", inline(&named.into()));
        prop_assert_eq!(&Config::parse(&text).unwrap().vgpus, &[spec]);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = Config::parse(&text);
    }

    #[test]
    fn no_keys_and_values_make_the_reader_panic(lines in prop::collection::vec((0..24_usize, 0..20_usize), 0..30)) {
        let keys = [
            "[[vgpu]]\nname", "[[device]]\nname", "[default]\nweight", "[vgpu.limits]\nstaging", "name", "socket",
            "policy", "weight", "share", "deadline-ms", "cap", "memory", "connections", "devices", "mode", "owner",
            "group", "limits", "eviction", "partitions", "metrics", "admin-socket", "ü.\"\"", "slice-ms",
        ];
        let values = [
            "1", "-1", "0", "1e308", "nan", "inf", "-0.0", "\"\"", "\"ü\"", "\"/a\"", "\"50%\"", "\"nan%\"",
            "\"1.5 GiB\"", "[]", "[1, \"a\", {}]", "{ }", "{ a = { b = [ [] ] } }", "true", "9223372036854775807",
            "1979-05-27",
        ];
        let text: String = lines.iter().map(|(key, value)| format!("{} = {}\n", keys[*key], values[*value])).collect();
        if let Err(problems) = Config::parse(&text) {
            let _ = problems.in_file(Path::new("x"));
        }
    }
}
