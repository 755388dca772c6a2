//! Does paragpud serve what its configuration says, and only that, when it starts and when the file changes?

mod configured;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use configured::{Daemon, is_served, speak, wait_until};
use rustix::process::Signal;

const THREE: &str = r#"
[[vgpu]]
name = "web"
socket = "DIR/web.sock"
mode = "0660"
weight = 200
[[vgpu]]
name = "ci"
socket = "DIR/deep/ci.sock"
policy = "best-effort"
[[vgpu]]
name = "one"
socket = "DIR/one.sock"
connections = 1
"#;

fn paragpud(arguments: &[&str], file: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_paragpud")).args(arguments).arg(file).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn each_vgpu_has_its_socket_its_name_and_its_connections() {
    let daemon = Daemon::start(THREE);
    assert_eq!(daemon.names(), ["ci", "one", "web"]);
    let web = daemon.at("web.sock").metadata().unwrap();
    assert!(web.file_type().is_socket());
    assert_eq!(web.permissions().mode() & 0o777, 0o660);
    assert_eq!(daemon.at("deep/ci.sock").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let _first = speak(&daemon.at("web.sock"));
    let _second = speak(&daemon.at("web.sock"));
    assert_eq!(daemon.connections("web"), 2);
    assert!(daemon.log().contains("web: connected") && daemon.log().contains("web#1: connected"));
    let only = speak(&daemon.at("one.sock"));
    let refused = UnixStream::connect(daemon.at("one.sock")).unwrap();
    rustix::io::write(&refused, &[1]).unwrap();
    wait_until("the refusal", || {
        daemon.log().contains("connection refused: vGPU one may have 1 connections, and has them")
    });
    assert!(is_served(&only));
    drop(only);
    wait_until("the place to be free", || daemon.connections("one") == 0);
    speak(&daemon.at("one.sock"));
    let pid = daemon.get("/v1/vgpus/web")["connections"][0]["pid"].as_u64();
    assert_eq!(pid, Some(u64::from(std::process::id())));
}

#[test]
fn a_wrong_file_is_refused_with_its_lines_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(&file, "[[vgpu]]\nname = \"a\"\nsocket = \"/r/a\"\nweight = 0\ncolour = 3\n").unwrap();
    for option in ["--check-config", "--config"] {
        let (success, text) = paragpud(&[option], &file);
        assert!(!success);
        let at = file.display();
        assert!(text.contains(&format!("{at}:4:10: vgpu.a.weight = 0: allowed are integers")), "{text}");
        assert!(text.contains(&format!("{at}:5:1: vgpu.a.colour: unknown key")), "{text}");
    }
    std::fs::write(&file, "").unwrap();
    assert_eq!(paragpud(&["--check-config"], &file), (true, format!("{}: ok\n", file.display())));
    let (success, text) = paragpud(&["--check-config"], Path::new("/nowhere"));
    assert!(!success && text.contains("cannot open /nowhere"), "{text}");

    // The second socket cannot be bound, so the first one goes again.
    let blocked = directory.path().join("b.sock");
    let _served_by_another = UnixListener::bind(&blocked).unwrap();
    let vgpu = |name: &str| {
        format!("[[vgpu]]\nname = \"{name}\"\nsocket = \"{}/{name}.sock\"\n", directory.path().display())
    };
    std::fs::write(&file, "admin-socket = \"none\"\n".to_owned() + &vgpu("a") + &vgpu("b")).unwrap();
    let (success, text) = paragpud(&["--config"], &file);
    assert!(!success && text.contains("b.sock: another program serves this socket"), "{text}");
    assert!(!directory.path().join("a.sock").exists() && blocked.exists());
}

#[test]
fn devices_that_the_host_does_not_have_are_refused_with_their_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let text = "admin-socket = \"none\"\n[[device]]\nname = \"d\"\nplatform = \"No Such Platform\"\n";
    std::fs::write(&file, text).unwrap();
    let (success, text) = paragpud(&["--config"], &file);
    let expected = ":4:12: device.d.platform = \"No Such Platform\": no device of this host fits";
    assert!(!success && text.contains(expected), "{text}");
    let vgpu = "[[vgpu]]\nname = \"a\"\nsocket = \"/tmp/never\"\nmemory = \"900 TiB\"\n";
    let device = "[[device]]\nname = \"d\"\nplatform = \"Portable Computing Language\"\n";
    std::fs::write(&file, format!("admin-socket = \"none\"\n{device}{vgpu}")).unwrap();
    let (success, text) = paragpud(&["--config"], &file);
    assert!(!success && text.contains("vgpu.a.memory = \"900 TiB\": device d has "), "{text}");
}

#[test]
fn a_reload_changes_what_differs_and_leaves_the_others_alone() {
    let daemon = Daemon::start(THREE);
    let web = speak(&daemon.at("web.sock"));
    let ci = speak(&daemon.at("deep/ci.sock"));
    let inode = daemon.at("web.sock").metadata().unwrap().ino();

    daemon.reload("[[vgpu]]\nname = \"web\"\nweight = 0", "the configuration stays as it was");
    assert!(daemon.log().contains("config.toml:3:10: vgpu.web.weight = 0"), "{}", daemon.log());
    assert_eq!(daemon.names(), ["ci", "one", "web"]);

    // ci goes; web weighs more, and its socket opens; one moves; new comes.
    let next = r#"
        [[vgpu]]
        name = "web"
        socket = "DIR/web.sock"
        mode = "0666"
        weight = 300
        [[vgpu]]
        name = "one"
        socket = "DIR/moved.sock"
        [[vgpu]]
        name = "new"
        socket = "DIR/new.sock"
    "#;
    daemon.reload(next, "the configuration is read again");
    assert_eq!(daemon.names(), ["new", "one", "web"]);
    assert!(is_served(&web));
    wait_until("the end of ci", || !is_served(&ci));
    assert!(!daemon.at("deep/ci.sock").exists() && !daemon.at("one.sock").exists());
    for name in ["moved.sock", "new.sock", "web.sock"] {
        speak(&daemon.at(name));
    }
    let metadata = daemon.at("web.sock").metadata().unwrap();
    assert_eq!((metadata.ino(), metadata.permissions().mode() & 0o777), (inode, 0o666));
    assert_eq!(daemon.get("/v1/vgpus/web")["settings"]["weight"], 300);
    assert_eq!(daemon.log().matches("the configuration is read again").count(), 1);

    // One socket cannot be bound: neither that vGPU nor anything else of the file comes.
    std::fs::write(daemon.at("file"), "").unwrap();
    let wrong = next.replace("DIR/new.sock", "DIR/file").replace("300", "400").replace("0666", "0600");
    daemon.reload(&wrong, "the configuration stays as it was");
    assert!(daemon.log().contains("a file that is no socket is in the way"));
    assert_eq!(daemon.get("/v1/vgpus/web")["settings"]["weight"], 300);
    assert_eq!(daemon.at("web.sock").metadata().unwrap().permissions().mode() & 0o777, 0o666);
    speak(&daemon.at("new.sock"));

    // A vGPU that takes over another one's socket does not disturb it either.
    daemon.reload(&next.replace("\"new\"", "\"newer\""), "the configuration is read again");
    speak(&daemon.at("new.sock"));
    wait_until("newer's session", || daemon.log().contains("newer: connected"));
    assert!(is_served(&web));
}

#[test]
fn a_restart_serves_the_same_sockets_also_after_a_kill() {
    let mut daemon = Daemon::start(THREE);
    daemon.signal(Signal::KILL);
    daemon.child.wait().unwrap();
    assert!(daemon.at("web.sock").exists());
    let directory = std::mem::replace(&mut daemon.directory, tempfile::tempdir().unwrap());
    std::fs::write(daemon.at("log"), "").unwrap();
    let mut daemon = Daemon::start_in(directory, THREE);
    speak(&daemon.at("web.sock"));
    daemon.signal(Signal::TERM);
    assert!(daemon.child.wait().unwrap().success());
    for name in ["web.sock", "deep/ci.sock", "one.sock", "admin.sock"] {
        assert!(!daemon.at(name).exists(), "{name}");
    }
}

#[test]
fn sockets_get_their_owner_and_group() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root may give sockets to others");
    }
    let daemon = Daemon::start(
        "[[vgpu]]\nname = \"a\"\nsocket = \"DIR/a\"\nowner = 12345\ngroup = \"daemon\"\n[[vgpu]]\nname = \
         \"b\"\nsocket = \"DIR/b\"\n",
    );
    let group = |name: &str| nix_group(name);
    let a = daemon.at("a").metadata().unwrap();
    assert_eq!((a.uid(), a.gid(), a.mode() & 0o777), (12345, group("daemon"), 0o660));
    let (status, json) = daemon.ask("PATCH", "/v1/vgpus/a", r#"{"owner": 23456, "mode": "0600"}"#);
    assert_eq!(status, 200, "{json}");
    let a = daemon.at("a").metadata().unwrap();
    assert_eq!((a.uid(), a.gid(), a.mode() & 0o777), (23456, group("daemon"), 0o600));
    let (status, json) = daemon.ask("PATCH", "/v1/vgpus/b", r#"{"group": "no-such-group", "weight": 7}"#);
    assert_eq!(status, 409, "{json}");
    assert!(json["error"].as_str().unwrap().contains("this host has no group \"no-such-group\""), "{json}");
    assert_eq!(daemon.get("/v1/vgpus/b")["settings"]["weight"], 100);
}

/// A group's number, as the file says it.
fn nix_group(name: &str) -> u32 {
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let line = groups.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}

#[test]
fn connections_to_the_shared_socket_are_vgpus_beside_those_of_the_file() {
    let daemon = Daemon::start(&("socket = \"DIR/socket\"\n[default]\nweight = 50\n".to_owned() + THREE));
    let own = speak(&daemon.at("socket"));
    let vgpu = daemon.get("/v1/vgpus/vgpu0");
    assert_eq!((&vgpu["origin"], &vgpu["settings"]["weight"]), (&"connection".into(), &50.into()));
    let (status, json) = daemon.ask("PATCH", "/v1/vgpus/vgpu0", r#"{"weight": 60}"#);
    assert_eq!((status, &json["settings"]["weight"]), (200, &60.into()));
    let (status, json) = daemon.ask("PATCH", "/v1/vgpus/vgpu0", r#"{"socket": "/tmp/x"}"#);
    assert_eq!((status, &json["field"]), (400, &"socket".into()), "{json}");
    drop(own);
    wait_until("vgpu0 to go", || daemon.names() == ["ci", "one", "web"]);
    let other = speak(&daemon.at("socket"));
    assert_eq!(daemon.ask("DELETE", "/v1/vgpus/vgpu1", "").0, 200);
    wait_until("its end", || !is_served(&other));
}

fn resident(daemon: &Daemon) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", daemon.child.id())).unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

#[test]
fn an_idle_vgpu_costs_the_daemon_less_than_a_mebibyte() {
    const VGPUS: u64 = 256;
    let config = |count: u64| -> String {
        (0..count).map(|n| format!("[[vgpu]]\nname = \"v{n}\"\nsocket = \"DIR/v{n}\"\n")).collect()
    };
    let one = Daemon::start(&config(1));
    let _its_guest = speak(&one.at("v0"));
    let many = Daemon::start(&config(VGPUS));
    let guests: Vec<_> = (0..VGPUS).map(|n| speak(&many.at(&format!("v{n}")))).collect();
    let vgpus = many.get("/v1/vgpus");
    let connected = |vgpu: &&serde_json::Value| vgpu["standing"] == "idle";
    assert_eq!(vgpus["vgpus"].as_array().unwrap().iter().filter(connected).count(), VGPUS as usize);
    one.get("/v1/vgpus");
    let each = resident(&many).saturating_sub(resident(&one)) / (VGPUS - 1);
    println!("{each} bytes for each idle vGPU");
    assert!(each < 1024 * 1024, "{each} bytes for each idle vGPU");
    assert!(guests.iter().all(is_served));
}

#[test]
fn one_vgpu_can_have_hundreds_of_connections() {
    let daemon = Daemon::start("[[vgpu]]\nname = \"a\"\nsocket = \"DIR/a\"\nconnections = 300\n");
    let guests: Vec<_> = (0..300).map(|_| speak(&daemon.at("a"))).collect();
    assert_eq!(daemon.connections("a"), guests.len());
    assert!(guests.iter().all(is_served));
}
