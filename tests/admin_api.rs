//! Does the admin socket do what docs/admin-api.md says, and refuse what it must, whoever asks?

mod configured;

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use configured::{Daemon, ask, is_served, speak, wait_until};
use serde_json::{Value, json};

const ONE: &str = "[[vgpu]]\nname = \"web\"\nsocket = \"DIR/web.sock\"\n";

#[test]
fn a_vgpu_is_added_changed_paused_and_removed() {
    let daemon = Daemon::start(ONE);
    let body = json!({"socket": daemon.at("new.sock"), "weight": 300, "memory": "1 GiB"}).to_string();
    let (status, added) = daemon.ask("PUT", "/v1/vgpus/new", &body);
    assert_eq!((status, &added["origin"], &added["settings"]["weight"]), (201, &json!("admin"), &json!(300)));
    let connection = speak(&daemon.at("new.sock"));
    wait_until("the connection", || daemon.connections("new") == 1);
    assert_eq!(daemon.get("/v1/vgpus/new")["standing"], "idle");

    let (status, changed) = daemon.ask("PATCH", "/v1/vgpus/new", r#"{"cap": 50, "memory": null}"#);
    let settings = &changed["settings"];
    assert_eq!((status, &settings["cap"], &settings["memory"]), (200, &json!(50.0), &json!("none")));
    assert_eq!(settings["weight"], 300);
    // What is shown can be sent again.
    assert_eq!(daemon.ask("PATCH", "/v1/vgpus/new", &settings.to_string()).0, 200);
    assert_eq!(daemon.get("/v1/vgpus/new")["settings"], *settings);

    assert_eq!(daemon.ask("POST", "/v1/vgpus/new/pause", "").1["standing"], "paused");
    assert_eq!(daemon.ask("POST", "/v1/vgpus/new/resume", "").1["paused"], false);
    assert_eq!(daemon.ask("POST", "/v1/vgpus/new/kill", ""), (200, json!({"connections": 1})));
    assert!(is_served(&connection), "a connection outlives its executor");

    // What the admin socket added stays when the file is read again.
    daemon.reload(ONE, "the configuration is read again");
    assert_eq!(daemon.names(), ["new", "web"]);
    assert_eq!(daemon.ask("DELETE", "/v1/vgpus/new", ""), (200, json!({"removed": "new"})));
    wait_until("the end of the connection", || !is_served(&connection));
    assert!(!daemon.at("new.sock").exists());
    assert_eq!(daemon.names(), ["web"]);
}

#[test]
fn wrong_requests_are_answered_with_what_to_change_and_change_nothing() {
    let daemon = Daemon::start(ONE);
    let before = daemon.get("/v1/vgpus");
    let table: [(&str, &str, &str, u16, &str, Value); 14] = [
        (
            "PATCH",
            "/v1/vgpus/web",
            r#"{"weight": 5, "cap": 101}"#,
            400,
            "allowed are numbers from 0.1 to 100",
            json!("cap"),
        ),
        ("PATCH", "/v1/vgpus/web", r#"{"wait": 5}"#, 400, "unknown key", json!("wait")),
        ("PATCH", "/v1/vgpus/web", r#"{"name": "x"}"#, 400, "unknown key", json!("name")),
        (
            "PATCH",
            "/v1/vgpus/web",
            r#"{"limits": {"builds": 99}}"#,
            400,
            "from 1 to 4",
            json!("limits.builds"),
        ),
        (
            "PATCH",
            "/v1/vgpus/web",
            r#"{"devices": ["gpu"]}"#,
            400,
            "no [[device]] is named",
            json!("devices"),
        ),
        ("PATCH", "/v1/vgpus/web", "[]", 400, "must be a JSON object", Value::Null),
        ("PATCH", "/v1/vgpus/web", "{", 400, "must be a JSON object", Value::Null),
        ("PATCH", "/v1/vgpus/nobody", "{}", 404, "there is no vGPU \"nobody\"; there are web", Value::Null),
        ("GET", "/v1/vgpus/nobody", "", 404, "there are web", Value::Null),
        (
            "PUT",
            "/v1/vgpus/web",
            r#"{"socket": "/tmp/x"}"#,
            409,
            "there is a vGPU \"web\" already",
            Value::Null,
        ),
        ("PUT", "/v1/vgpus/b%2Fc", r#"{"socket": "/tmp/x"}"#, 400, "a name is", json!("name")),
        ("PUT", "/v1/vgpus/b", r#"{"socket": "/proc/x/y"}"#, 409, "cannot listen on /proc/x/y", Value::Null),
        ("POST", "/v1/vgpus", "{}", 405, "possible: GET", Value::Null),
        ("GET", "/v2/vgpus", "", 404, "nothing at this path", Value::Null),
    ];
    for (method, path, body, status, error, field) in table {
        let (got, json) = daemon.ask(method, path, body);
        let text = json["error"].as_str().unwrap_or_default();
        assert!(got == status && text.contains(error), "{method} {path} {body}: {got} {json}");
        assert_eq!(json["field"], field, "{method} {path} {body}");
    }
    let own = json!({"socket": daemon.at("admin.sock")}).to_string();
    let (status, json) = daemon.ask("PUT", "/v1/vgpus/b", &own);
    assert_eq!((status, &json["field"]), (400, &json!("socket")), "{json}");
    assert_eq!(daemon.get("/v1/vgpus"), before);
}

#[test]
fn devices_change_while_nobody_is_connected() {
    let daemon = Daemon::start(
        &("[[device]]\nname = \"d\"\nplatform = \"Portable Computing Language\"\npartitions = [1, 1]\n"
            .to_owned()
            + ONE),
    );
    let change = |devices: &str| daemon.ask("PATCH", "/v1/vgpus/web", &format!("{{\"devices\": {devices}}}"));
    let (status, json) = change(r#"["d/1"]"#);
    assert_eq!((status, &json["settings"]["devices"]), (200, &json!(["d/1"])));
    let front_end = speak(&daemon.at("web.sock"));
    let (status, json) = change("[]");
    assert_eq!((status, &json["field"]), (400, &json!("devices")), "{json}");
    assert!(json["error"].as_str().unwrap().contains("its guest is connected"), "{json}");
    drop(front_end);
    wait_until("nobody to be connected", || daemon.connections("web") == 0);
    assert_eq!(change("[]").0, 200);
    let devices = daemon.get("/v1/devices");
    assert_eq!(
        (&devices["devices"][0]["name"], &devices["devices"][1]["name"]),
        (&json!("d/0"), &json!("d/1"))
    );
}

/// `curl` as a user that is nobody in particular, with the admin socket open to all.
fn as_nobody(daemon: &Daemon, method: &str, path: &str) -> (String, u16) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-X", method, "-w", "\n%{http_code}", "--unix-socket"]).arg(daemon.at("admin.sock"));
    let output = curl.arg(format!("http://paragpu{path}")).uid(65534).gid(65534).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) =
        text.rsplit_once('\n').unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&output.stderr)));
    (body.to_owned(), status.parse().unwrap())
}

#[test]
fn others_than_root_and_the_daemons_user_may_look_and_not_touch() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root may become somebody else");
    }
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no curl");
    }
    let daemon = Daemon::start(ONE);
    let mode = |daemon: &Daemon| daemon.at("admin.sock").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&daemon), 0o600);
    let of_group = Daemon::start(&("admin-group = 54321\n".to_owned() + ONE));
    let gid = of_group.at("admin.sock").metadata().unwrap().gid();
    assert_eq!((mode(&of_group), gid), (0o660, 54321));
    let open = |path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(daemon.directory.path().to_owned(), 0o755);
    open(daemon.at("admin.sock"), 0o666);
    let (body, status) = as_nobody(&daemon, "GET", "/v1/vgpus/web");
    assert!(status == 200 && body.contains("\"web\""), "{status} {body}");
    let (body, status) = as_nobody(&daemon, "GET", "/v1/trace?seconds=0.1");
    assert!(status == 200 && body.contains("traceEvents"), "{status} {body}");
    for (method, path) in [
        ("PATCH", "/v1/vgpus/web"),
        ("PUT", "/v1/vgpus/new"),
        ("DELETE", "/v1/vgpus/web"),
        ("POST", "/v1/vgpus/web/kill"),
    ] {
        let (body, status) = as_nobody(&daemon, method, path);
        assert!(
            status == 403 && body.contains("only root and the user that paragpud runs as"),
            "{status} {body}"
        );
    }
    assert_eq!(daemon.names(), ["web"]);
}

#[test]
fn clients_that_stall_hold_nobody_up() {
    let daemon = Daemon::start(ONE);
    let stalled: Vec<UnixStream> = (0..8)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.at("admin.sock")).unwrap();
            stream.write_all(b"PATCH /v1/vgpus/web HTTP/1.1\r\nContent-Length: 9\r\n\r\n{").unwrap();
            stream
        })
        .collect();
    let before = Instant::now();
    assert_eq!(daemon.names(), ["web"]);
    speak(&daemon.at("web.sock"));
    assert!(before.elapsed().as_secs() < 8, "{:?}", before.elapsed());
    let mut answer = String::new();
    (&stalled[0]).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // Not even with more than it takes at once.
    let _many: Vec<UnixStream> =
        (0..200).map(|_| UnixStream::connect(daemon.at("admin.sock")).unwrap()).collect();
    speak(&daemon.at("web.sock"));
    wait_until("the log", || daemon.log().contains("a request is dropped"));
}

/// Names of the series in OpenMetrics text.
fn series(metrics: &str) -> Vec<&str> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(['{', ' ']).next().unwrap()).collect()
}

#[test]
fn prometheus_gets_every_metric_that_the_dashboard_shows() {
    let daemon = Daemon::start(&("metrics = \"127.0.0.1:0\"\n[[device]]\nname = \"cpu\"\nplatform = \"Portable Computing Language\"\n".to_owned() + ONE));
    let (status, metrics) = ask(&daemon.at("admin.sock"), "GET", "/metrics", "");
    assert_eq!(status, 200);
    assert!(metrics.ends_with("# EOF\n") && metrics.contains("le=\"+Inf\""), "{metrics}");
    assert!(metrics.contains("paragpu_standing{vgpu=\"web\",standing=\"offline\"} 1"), "{metrics}");
    let exported = series(&metrics);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut shown = 0;
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("paragpu_")) {
            assert!(exported.contains(&name), "{name} of {expression:?} is not exported: {exported:?}");
            shown += 1;
        }
    }
    assert!(shown >= 8, "the dashboard shows {shown} metrics");
    let document = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/admin-api.md");
    let document = std::fs::read_to_string(document).unwrap();
    for name in &exported {
        let name = ["_bucket", "_sum", "_count"].iter().fold(*name, |name, end| name.trim_end_matches(end));
        assert!(document.contains(&format!("`{name}`")), "{name} is not in the document");
    }

    let log = daemon.log();
    let address = log.split("metrics at http://").nth(1).unwrap().split('/').next().unwrap();
    let over_tcp = |path: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = over_tcp("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("openmetrics-text"), "{answer}");
    assert_eq!(series(answer.split_once("\r\n\r\n").unwrap().1), exported);
    for path in ["/v1/vgpus", "/v1/trace?seconds=0.1"] {
        assert!(over_tcp(path).starts_with("HTTP/1.1 403 "));
    }
}
