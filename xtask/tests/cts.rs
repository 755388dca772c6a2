//! Does `cargo xtask cts` tell what differs? With a suite of shell scripts in place of Khronos's, and scripts in place of
//! our programs, so that it needs no OpenCL.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A suite's binary: VGPU is set where it runs through the vGPU.
const SUITE: &str = r#"#!/bin/sh
[ "$1" = --list ] && exec printf '\t%s\n' passes fails_too hangs_too skips differs crashes hangs
[ "$1" = -w ] || exit 1
results() { echo "{\"results\": {\"$1\": \"$2\"}}" > "$CL_CONFORMANCE_RESULTS_FILENAME"; }
echo "$2 $VGPU" >> "$FAKE/log"
case $2$VGPU in
    passes*|differs|crashes|hangs) results "$2" pass ;;
    skips*) results "$2" skip ;;
    fails_too*) exit 1 ;;
    differs-vgpu) echo "expected 1, got 2"; exit 1 ;;
    crashes-vgpu) results "$2" pass; kill -SEGV $$ ;;
    hangs_too|hangs-vgpu) sleep 1000 & echo $! > "$FAKE/sleeper$VGPU"; wait ;;
esac
"#;

const LIST: &str = r#"
timeout = 60
[[binary]]
path = "fake/test_fake"
arguments = ["-w", "{test}"]
timeout = 1
[[binary]]
path = "more/test_more"
arguments = ["-w", "{test}"]
tests = ["passes"]
[[binary]]
path = "missing/test_missing"
"#;

const CLINFO: &str = "#!/bin/sh\necho 'CL_PLATFORM_NAME Fake'; echo \"CL_PLATFORM_VERSION OpenCL 3.0 Fake $FAKE_VERSION\"\n\
                      echo 'CL_DEVICE_NAME cpu'; echo 'CL_DRIVER_VERSION 1'\n";
const PARAGPU: &str = "#!/bin/sh\n[ \"$1 $2 $4\" = 'run --socket --' ] && [ -S \"$3\" ] || exit 125\n\
                       shift 4; VGPU=-vgpu exec \"$@\"\n";
const PARAGPUD: &str = "#!/bin/sh\nexec sleep 1000\n";

struct Fake(TempDir);

impl Fake {
    fn new() -> Fake {
        let fake = Fake(tempfile::tempdir().unwrap());
        for (path, content) in [
            ("suite/fake/test_fake", SUITE),
            ("suite/more/test_more", SUITE),
            ("programs/paragpu", PARAGPU),
            ("programs/paragpud", PARAGPUD),
            ("path/clinfo", CLINFO),
            ("list.toml", LIST),
        ] {
            let file = fake.path(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        }
        fake
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let path = format!("{}:{}", self.path("path").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("cts").args(arguments).env("PATH", path).env("FAKE", self.0.path());
        command.env("FAKE_VERSION", "1").env_remove("VGPU").env("TMPDIR", self.0.path());
        for (option, value) in
            [("--cts-dir", "suite"), ("--programs", "programs"), ("--list", "list.toml"), ("--logs", "logs")]
        {
            command.arg(option).arg(self.path(value));
        }
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    (status.code().unwrap(), stdout, stderr)
}

fn is_alive(pid: &Path) -> bool {
    let pid = fs::read_to_string(pid).unwrap();
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn each_test_runs_on_both_sides_and_only_lost_passes_count() {
    let fake = Fake::new();
    let (json, markdown) = (fake.path("results.json"), fake.path("doc.md"));
    let (status, table, progress) =
        run(fake.command(&[]).arg("--json").arg(&json).arg("--markdown").arg(&markdown));
    assert_eq!(status, 1, "{progress}");

    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let fake_binary = &report["results"][0];
    assert_eq!(fake_binary["binary"], "fake/test_fake");
    assert_eq!((&fake_binary["native_pass"], &fake_binary["vgpu_pass"]), (&json!(4), &json!(1)));
    let differences = json!([
        {"test": "differs", "native": "pass", "vgpu": "fail"},
        {"test": "crashes", "native": "pass", "vgpu": "crash"},
        {"test": "hangs", "native": "pass", "vgpu": "timeout"},
    ]);
    assert_eq!(fake_binary["differences"], differences);
    assert_eq!(fake_binary["native"], json!({"pass": 4, "fail": 1, "skip": 1, "crash": 0, "timeout": 1}));
    assert_eq!(fake_binary["undecided"], json!(["hangs_too"]));
    let more = &report["results"][1];
    assert_eq!((&more["native_pass"], &more["vgpu_pass"]), (&json!(1), &json!(1)));
    assert_eq!(report["not_built"], json!(["missing/test_missing"]));

    assert!(table.contains("fake/test_fake differs (pass, vGPU fail)"), "{table}");
    assert!(progress.contains("fake/test_fake crashes: pass, but crash through the vGPU"), "{progress}");
    assert!(fs::read_to_string(markdown).unwrap().contains("| fake/test_fake | 7 | 4 | 1 |"));
    let log = fs::read_to_string(fake.path("logs/fake.test_fake/differs.vgpu.log")).unwrap();
    assert!(log.contains("expected 1, got 2") && log.contains("ended with 1"), "{log}");

    // What had no native verdict has nothing to be compared with.
    assert!(!fake.log().contains("hangs_too -vgpu"));
    for sleeper in ["sleeper", "sleeper-vgpu"] {
        assert!(!is_alive(&fake.path(sleeper)), "{sleeper} outlives its test");
    }
    let left = fs::read_dir(fake.0.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("paragpu-")), "{left:?}");
}

#[test]
fn a_run_without_lost_passes_succeeds() {
    let fake = Fake::new();
    let (status, table, _) =
        run(&mut fake.command(&["--binary", "fake", "--test", "pass*", "fails_too", "skips"]));
    assert_eq!(status, 0, "{table}");
    assert!(table.contains("of 3 sub-tests 1 pass natively and 1 through the vGPU"), "{table}");
}

#[test]
fn native_outcomes_are_taken_from_the_cache_while_the_platform_is_the_same() {
    let fake = Fake::new();
    let native_runs = |version: &str| {
        let mut command = fake.command(&["--binary", "test_more"]);
        command.arg("--native-cache").arg(fake.path("cache")).env("FAKE_VERSION", version);
        let (status, _, progress) = run(&mut command);
        assert_eq!(status, 0, "{progress}");
        fake.log().lines().filter(|line| *line == "passes ").count()
    };
    assert_eq!(["1", "1", "2", "1"].map(native_runs), [1, 1, 2, 2]);
    assert_eq!(fake.log().matches("passes -vgpu").count(), 4);
}

#[test]
fn a_run_of_some_binaries_completes_the_results_of_an_earlier_one() {
    let fake = Fake::new();
    let (json, markdown) = (fake.path("results.json"), fake.path("doc.md"));
    let update = |arguments: &[&str]| {
        let mut command = fake.command(arguments);
        let (status, table, progress) =
            run(command.arg("--update").arg("--json").arg(&json).arg("--markdown").arg(&markdown));
        let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let rows = report["results"].as_array().unwrap().iter();
        let rows: Vec<_> = rows.map(|row| row["binary"].as_str().unwrap().to_owned()).collect();
        let runs = fake.log().matches("passes -vgpu").count();
        assert!(rows.iter().all(|row| fs::read_to_string(&markdown).unwrap().contains(row)), "{progress}");
        (status, rows.join(" "), runs, table)
    };
    let (both, more) = ("fake/test_fake more/test_more", "more/test_more");
    let (status, rows, runs, _) = update(&["--binary", "more"]);
    assert_eq!((status, rows.as_str(), runs), (0, more, 1));
    // What it lacks, in the list's order.
    let (status, rows, runs, _) = update(&[]);
    assert_eq!((status, rows.as_str(), runs), (1, both, 2));
    // Once more, of which alone the status and the table tell.
    let (status, rows, runs, table) = update(&["--binary", "more"]);
    assert_eq!((status, rows.as_str(), runs), (0, both, 3));
    assert!(table.contains("of 1 sub-tests 1 pass natively") && !table.contains("fake/"), "{table}");
    let (status, rows, runs, _) = update(&[]);
    assert_eq!((status, rows.as_str(), runs), (0, both, 3), "nothing is left to run");
}

#[test]
fn several_at_a_time_find_the_same() {
    let fake = Fake::new();
    let json = fake.path("results.json");
    let (status, _, progress) = run(fake.command(&["--jobs", "4"]).arg("--json").arg(&json));
    assert_eq!(status, 1, "{progress}");
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(report["results"][0]["vgpu_pass"], 1);
    assert_eq!(report["results"][0]["differences"].as_array().unwrap().len(), 3);
    assert_eq!(report["results"][1]["vgpu_pass"], 1);
}

#[test]
fn a_run_that_cannot_be_made_is_no_difference() {
    let cases: [(&[&str], &str); 6] = [
        (&["--binary", "nothing"], "no binary of the list is called nothing"),
        (&["--binary", "missing"], "lacks missing/test_missing"),
        (&["--test", "nothing"], "no sub-test is called nothing"),
        (&["--cts-dir", "/nowhere"], "the argument '--cts-dir <DIR>' cannot be used multiple times"),
        (&["--update"], "--json <FILE>"),
        (&["--update", "--json", "x", "--test", "y"], "'--update' cannot be used with '--test <NAME>...'"),
    ];
    for (arguments, complaint) in cases {
        let (status, _, stderr) = run(&mut Fake::new().command(arguments));
        assert_eq!(status, 2, "{stderr}");
        assert!(stderr.contains(complaint), "{stderr}");
    }
}

#[test]
fn a_folder_of_the_suite_that_is_not_there_is_told_before_anything_is_built() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let (status, _, stderr) = run(command.args(["cts", "--cts-dir", "/nowhere"]));
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains("/nowhere is no folder") && stderr.contains("docs/conformance.md"), "{stderr}");
    assert!(!stderr.contains("Finished"), "{stderr}");
}
