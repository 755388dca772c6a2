//! Do `paragpu ps`, `show`, `set` and others do what they say, and say what to do when they cannot?

mod configured;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use configured::{Daemon, is_served, speak, wait_until};
use serde_json::Value;

const TWO: &str = r#"
socket = "DIR/paragpud.sock"
[[vgpu]]
name = "web"
socket = "DIR/web.sock"
weight = 200
memory = "1 GiB"
[[vgpu]]
name = "ci"
socket = "DIR/ci.sock"
policy = "deadline"
deadline-ms = 20
cap = 50
"#;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn says(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[track_caller]
fn fails(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    text(&output.stderr)
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn vgpus_are_listed_shown_and_watched() {
    let daemon = Daemon::start(TWO);
    let _web = speak(&daemon.at("web.sock"));
    let _other = speak(&daemon.at("web.sock"));
    let list = says(&daemon.tool(&["ps"]));
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(words(lines[0])[..3], ["NAME", "STANDING", "POLICY"]);
    assert_eq!(words(lines[1])[..6], ["ci", "offline", "deadline", "20ms,", "cap", "50%"]);
    assert_eq!(words(lines[2])[..6], ["web", "idle", "weighted", "200", "all", "2"]);
    let json: Value = serde_json::from_str(&says(&daemon.tool(&["ps", "--json"]))).unwrap();
    assert_eq!(json["vgpus"][1]["name"], "web");

    let shown = says(&daemon.tool(&["show", "web"]));
    let has = |expected: &[&str]| shown.lines().any(|line| words(line) == expected);
    assert!(
        has(&["weight", "200"]) && has(&["limits.builds", "4"]) && has(&["memory", "1", "GiB"]),
        "{shown}"
    );
    let pid = std::process::id().to_string();
    assert!(shown.lines().any(|line| line.starts_with("web#1") && line.contains(&pid)), "{shown}");
    let json: Value = serde_json::from_str(&says(&daemon.tool(&["show", "web", "--json"]))).unwrap();
    assert_eq!(json["settings"]["weight"], 200);

    let frame = says(&daemon.tool(&["top", "--once", "--interval", "0.1"]));
    assert!(frame.starts_with("paragpu  2 vGPUs, 1 connected, 0 running\n"), "{frame}");
    assert!(
        frame.lines().any(|line| words(line).starts_with(&["web", "idle", "weighted", "200"])),
        "{frame}"
    );
    let no_terminal = fails(&daemon.tool(&["top"]));
    assert!(no_terminal.contains("--once prints one frame"), "{no_terminal}");
}

#[test]
fn vgpus_are_added_changed_paused_killed_and_removed() {
    let daemon = Daemon::start(TWO);
    says(&daemon.tool(&[
        "add",
        "new",
        daemon.at("new.sock").to_str().unwrap(),
        "mode=0660",
        "limits.builds=2",
    ]));
    let front_end = speak(&daemon.at("new.sock"));
    assert_eq!(daemon.get("/v1/vgpus/new")["settings"]["limits"]["builds"], 2);
    says(&daemon.tool(&["set", "new", "weight=7", "cap=12.5", "limits.contexts=3"]));
    let settings = &daemon.get("/v1/vgpus/new")["settings"];
    assert_eq!((&settings["weight"], &settings["cap"]), (&7.into(), &12.5.into()));
    assert_eq!((&settings["limits"]["builds"], &settings["limits"]["contexts"]), (&2.into(), &3.into()));
    says(&daemon.tool(&["set", "new", "cap=default"]));
    assert_eq!(daemon.get("/v1/vgpus/new")["settings"]["cap"], "none");
    says(&daemon.tool(&["pause", "new", "web"]));
    assert_eq!(daemon.get("/v1/vgpus/web")["standing"], "paused");
    says(&daemon.tool(&["resume", "new", "web"]));
    assert_eq!(says(&daemon.tool(&["kill", "new", "--json"])), "{\"connections\":1}\n");
    says(&daemon.tool(&["remove", "new"]));
    wait_until("the connection's end", || !is_served(&front_end));
    assert_eq!(daemon.names(), ["ci", "web"]);
}

#[test]
fn a_daemon_without_a_configuration_has_an_admin_socket_too_unless_told() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let admin = directory.path().join("s.admin");
    let start = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paragpud"));
        let child =
            command.arg("--socket-path").arg(&socket).args(more).stderr(Stdio::null()).spawn().unwrap();
        wait_until("the daemon listens", || UnixStream::connect(&socket).is_ok());
        child
    };
    let mut daemon = start(&[]);
    let _own = speak(&socket);
    let mut list = Command::new(env!("CARGO_BIN_EXE_paragpu"));
    let list = says(&list.args(["ps", "--socket"]).arg(&admin).output().unwrap());
    assert_eq!(words(list.lines().nth(1).unwrap())[..4], ["vgpu0", "idle", "weighted", "100"]);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    std::fs::remove_file(&admin).unwrap();
    let mut daemon = start(&["--admin-socket", "none"]);
    assert!(!admin.exists());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn what_is_wrong_is_said_with_what_to_do_and_fails() {
    let daemon = Daemon::start(TWO);
    let wrong = fails(&daemon.tool(&["set", "web", "weight=0"]));
    assert_eq!(wrong, "paragpu: weight = 0: allowed are integers from 1 to 10000\n");
    assert!(fails(&daemon.tool(&["set", "web", "wieght=1"])).contains("did you mean weight?"));
    assert!(fails(&daemon.tool(&["set", "web", "weight"])).contains("KEY=VALUE"));
    assert!(
        fails(&daemon.tool(&["show", "nobody"])).contains("there is no vGPU \"nobody\"; there are ci, web")
    );
    // The others are done.
    let some = daemon.tool(&["pause", "nobody", "web"]);
    assert!(fails(&some).starts_with("paragpu: nobody: there is no vGPU"));
    assert_eq!(daemon.get("/v1/vgpus/web")["paused"], true);

    let tool = |socket: &std::path::Path| {
        Command::new(env!("CARGO_BIN_EXE_paragpu")).args(["ps", "--socket"]).arg(socket).output().unwrap()
    };
    let other = fails(&tool(&daemon.at("paragpud.sock")));
    assert!(
        other.contains("paragpud.sock is no admin socket; did you mean") && other.contains("admin.sock?"),
        "{other}"
    );
    let none = fails(&tool(&daemon.at("nothing")));
    assert!(none.starts_with("paragpu: no daemon answers at "), "{none}");
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_paragpu"));
    if !rustix::process::geteuid().is_root() {
        let output = nowhere.arg("ps").env("XDG_RUNTIME_DIR", daemon.directory.path()).output().unwrap();
        assert!(fails(&output).contains("`paragpud` starts one"));
    }
}

#[test]
fn top_is_a_view_that_keys_change() {
    // Of util-linux: gives a program a terminal.
    if Command::new("script").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no script(1)");
    }
    let daemon = Daemon::start(TWO);
    let line = format!(
        "stty rows 20 cols 150; {} top --interval 0.2 --socket {}",
        env!("CARGO_BIN_EXE_paragpu"),
        daemon.at("admin.sock").display()
    );
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm");
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keys = script.stdin.take().unwrap();
    let mut screen = script.stdout.take().unwrap();
    let (sender, shown) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = screen.read(&mut bytes) {
            let _ = sender.send(bytes[..count].to_vec());
        }
    });
    let mut all = Vec::new();
    let mut sees = |what: &str| {
        wait_until(what, || {
            all.extend(shown.try_iter().flatten());
            String::from_utf8_lossy(&all).contains(what)
        });
    };
    sees("STANDING");
    keys.write_all(b"jp").unwrap();
    wait_until("the first vGPU to be paused", || daemon.get("/v1/vgpus/ci")["paused"] == true);
    sees("paused");
    keys.write_all(b"q").unwrap();
    wait_until("the end", || script.try_wait().unwrap().is_some_and(|status| status.success()));
}
