//! seccomp: which system calls an executor may make. The policy is data, with the reasons.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use seccompiler::{BpfMap, TargetArch, apply_filter_all_threads, compile_from_json};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::executor::confinement::Seccomp;

const POLICY: &str = include_str!("../../../../resources/seccomp/executor.toml");

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub(in crate::executor::child) enum PolicyError {
    /// The policy is not what it should be.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// Names a group that the policy lacks.
    #[error("there is no group {0}")]
    UnknownGroup(String),
    /// Names an error that nothing here knows.
    #[error("there is no error {0}")]
    UnknownErrno(String),
    /// Not x86-64 and not aarch64.
    #[error("there is no policy for {0}")]
    Architecture(&'static str),
    /// Names a system call that this architecture lacks, most likely.
    #[error(transparent)]
    Filter(#[from] seccompiler::Error),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    group: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    /// For whoever reads the policy; a group without one is refused.
    #[serde(rename = "reason")]
    _reason: String,
    errno: Option<String>,
    /// OpenCL platforms whose drivers need it. Empty: all do.
    #[serde(default)]
    needed_by: Vec<String>,
    #[serde(default)]
    calls: Vec<String>,
    #[serde(default)]
    x86_64: Vec<String>,
    #[serde(default)]
    aarch64: Vec<String>,
    #[serde(default)]
    filtered: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    call: String,
    args: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    index: u8,
    is: Option<Operand>,
    not: Option<Operand>,
    mask: Option<u64>,
    width: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Operand {
    Number(u64),
    Placeholder(Placeholder),
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Placeholder {
    #[serde(rename = "$pid")]
    OwnProcess,
}

impl Operand {
    fn value(&self) -> u64 {
        match self {
            Operand::Number(number) => *number,
            Operand::Placeholder(Placeholder::OwnProcess) => u64::from(std::process::id()),
        }
    }
}

impl Condition {
    fn json(&self) -> Value {
        let (operator, operand) = match (&self.is, &self.not, self.mask) {
            (Some(is), None, Some(mask)) => (json!({ "masked_eq": mask }), is.value()),
            (Some(is), None, None) => (json!("eq"), is.value()),
            (None, Some(not), None) => (json!("ne"), not.value()),
            // A test looks at the whole policy, on which nothing else has an influence.
            _ => panic!("a condition has `is`, `not`, or `mask` and `is`"),
        };
        let width = if self.width == Some(32) { "dword" } else { "qword" };
        json!({ "index": self.index, "type": width, "op": operator, "val": operand })
    }
}

/// What is to be said of a system call.
#[derive(Debug)]
enum Allowed {
    Always,
    /// If one of these holds: lists of conditions that must all hold.
    If(Vec<Value>),
}

/// The filters of an executor.
#[derive(Debug)]
pub(super) struct Filters {
    /// What any driver may do, and the quiet refusals.
    any_driver: BpfMap,
    /// What every driver may do.
    every_driver: BpfMap,
    /// Platforms for whose drivers the first one stays.
    demanding: Vec<String>,
}

impl Filters {
    /// The policy's, and what is allowed beside it.
    pub(super) fn new(action: Seccomp, also: &[String]) -> Result<Filters, PolicyError> {
        let policy: Policy = toml::from_str(POLICY)?;
        let also_groups: BTreeSet<&str> = also.iter().filter_map(|name| name.strip_prefix('@')).collect();
        if let Some(unknown) =
            also_groups.iter().find(|name| !policy.group.iter().any(|it| it.name == **name))
        {
            return Err(PolicyError::UnknownGroup((*unknown).to_owned()));
        }
        let mut always: BTreeSet<&str> =
            also.iter().map(String::as_str).filter(|it| !it.starts_with('@')).collect();
        let refused = |group: &&Group| group.errno.is_some() && !also_groups.contains(group.name.as_str());
        for group in policy.group.iter().filter(|group| also_groups.contains(group.name.as_str())) {
            always.extend(group.names());
        }
        let default = match action {
            Seccomp::Kill => "kill_process",
            Seccomp::Log => "log",
            Seccomp::Trap => "trap",
            Seccomp::None => "allow",
        };

        let mut every = BTreeMap::new();
        let mut any = BTreeMap::new();
        let mut quiet: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        let mut demanding = Vec::new();
        for group in &policy.group {
            // What is refused quietly must pass the list of what is allowed: the strictest of all filters decides.
            for name in group.names() {
                any.insert(name, Allowed::Always);
                if group.needed_by.is_empty() {
                    every.insert(name, Allowed::Always);
                }
            }
            for rule in &group.filtered {
                add(&mut any, rule);
                if group.needed_by.is_empty() {
                    add(&mut every, rule);
                }
            }
            if !group.needed_by.is_empty() {
                demanding.extend(group.needed_by.iter().cloned());
            }
        }
        for group in policy.group.iter().filter(refused) {
            let rules =
                group.names().filter(|name| !always.contains(name)).map(|name| json!({ "syscall": name }));
            quiet.entry(group.errno.as_deref().unwrap_or_default()).or_default().extend(rules);
        }
        for group in policy.group.iter().filter(|group| also_groups.contains(group.name.as_str())) {
            for rule in &group.filtered {
                add(&mut every, rule);
            }
        }
        for name in always {
            any.insert(name, Allowed::Always);
            every.insert(name, Allowed::Always);
        }

        let mut filters = BTreeMap::from([("allowed", filter(default, &json!("allow"), rules(any)))]);
        for (name, rules) in quiet {
            filters.insert(name, filter("allow", &json!({ "errno": errno(name)?.raw_os_error() }), rules));
        }
        let every = BTreeMap::from([("allowed", filter(default, &json!("allow"), rules(every)))]);
        Ok(Filters { any_driver: compile(&filters)?, every_driver: compile(&every)?, demanding })
    }

    /// Filters this process's system calls, for good.
    pub(super) fn apply(&self) -> Result<(), seccompiler::Error> {
        self.any_driver.values().try_for_each(|program| apply_filter_all_threads(program))
    }

    /// Drops what the driver of this platform does not need.
    pub(super) fn driver_loaded(&self, platform: &str) -> Result<(), seccompiler::Error> {
        if self.demanding.iter().any(|it| it == platform) {
            return Ok(());
        }
        self.every_driver.values().try_for_each(|program| apply_filter_all_threads(program))
    }
}

impl Group {
    /// Calls that it names without conditions, on this architecture.
    fn names(&self) -> impl Iterator<Item = &str> {
        let own = match std::env::consts::ARCH {
            "x86_64" => &self.x86_64,
            _ => &self.aarch64,
        };
        self.calls.iter().chain(own).map(String::as_str)
    }
}

fn add<'a>(calls: &mut BTreeMap<&'a str, Allowed>, rule: &'a Rule) {
    let conditions = Value::Array(rule.args.iter().map(Condition::json).collect());
    match calls.entry(&rule.call).or_insert_with(|| Allowed::If(Vec::new())) {
        Allowed::Always => {}
        Allowed::If(alternatives) => alternatives.push(conditions),
    }
}

fn rules(calls: BTreeMap<&str, Allowed>) -> Vec<Value> {
    calls
        .into_iter()
        .flat_map(|(name, allowed)| match allowed {
            Allowed::Always => vec![json!({ "syscall": name })],
            Allowed::If(alternatives) => {
                alternatives.into_iter().map(|args| json!({ "syscall": name, "args": args })).collect()
            }
        })
        .collect()
}

/// A filter as `seccompiler` reads it.
fn filter(otherwise: &str, matching: &Value, rules: Vec<Value>) -> Value {
    json!({ "mismatch_action": otherwise, "match_action": matching, "filter": rules })
}

fn compile(filters: &BTreeMap<&str, Value>) -> Result<BpfMap, PolicyError> {
    let architecture = std::env::consts::ARCH;
    let target =
        TargetArch::try_from(architecture).map_err(|_unknown| PolicyError::Architecture(architecture))?;
    let text = json!(filters).to_string();
    Ok(compile_from_json(text.as_bytes(), target)?)
}

fn errno(name: &str) -> Result<Errno, PolicyError> {
    match name {
        "EAFNOSUPPORT" => Ok(Errno::AFNOSUPPORT),
        "ENOSYS" => Ok(Errno::NOSYS),
        "EPERM" => Ok(Errno::PERM),
        _ => Err(PolicyError::UnknownErrno(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_makes_filters_for_every_action() {
        for action in [Seccomp::Kill, Seccomp::Log, Seccomp::Trap] {
            let filters = Filters::new(action, &[]).unwrap();
            assert_eq!(filters.any_driver.len(), 4, "what is allowed, and three ways of refusing quietly");
            assert_eq!(filters.every_driver.len(), 1);
        }
    }

    #[test]
    fn every_group_has_a_reason_and_no_call_is_allowed_twice() {
        let policy: Policy = toml::from_str(POLICY).unwrap();
        let mut names = BTreeSet::new();
        for group in &policy.group {
            assert!(group._reason.len() > 10, "{}", group.name);
            for name in group.names() {
                assert!(names.insert(name), "{name} in {}", group.name);
            }
        }
        for group in &policy.group {
            for rule in &group.filtered {
                assert!(
                    !names.contains(rule.call.as_str()),
                    "{}: an argument is looked at in vain",
                    rule.call
                );
            }
        }
    }

    #[test]
    fn the_policy_holds_for_the_other_architecture_too() {
        let policy: Policy = toml::from_str(POLICY).unwrap();
        for (target, own) in
            [("x86_64", |it: &Group| it.x86_64.clone()), ("aarch64", |it: &Group| it.aarch64.clone())]
                as [(&str, fn(&Group) -> Vec<String>); 2]
        {
            let names = policy.group.iter().flat_map(|group| {
                let filtered = group.filtered.iter().map(|rule| rule.call.clone());
                group.calls.iter().cloned().chain(own(group)).chain(filtered).collect::<Vec<_>>()
            });
            let rules = names.map(|name| json!({ "syscall": name })).collect();
            let all = json!({ "all": filter("kill_process", &json!("allow"), rules) }).to_string();
            compile_from_json(all.as_bytes(), TargetArch::try_from(target).unwrap()).unwrap();
        }
    }

    /// tests/hostile_kernel.rs makes some of these.
    #[test]
    fn what_only_an_attacker_wants_is_in_no_group() {
        let policy: Policy = toml::from_str(POLICY).unwrap();
        let never = [
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "bpf",
            "mount",
            "umount2",
            "move_mount",
            "fsopen",
            "open_tree",
            "pivot_root",
            "chroot",
            "unshare",
            "setns",
            "keyctl",
            "add_key",
            "request_key",
            "userfaultfd",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "open_by_handle_at",
            "quotactl",
            "reboot",
            "swapon",
            "sethostname",
            "settimeofday",
            "clock_settime",
            "adjtimex",
            "acct",
            "syslog",
            "connect",
            "bind",
            "listen",
            "accept4",
            "capset",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
            "tkill",
            "migrate_pages",
            "fanotify_init",
            "setrlimit",
        ];
        for group in &policy.group {
            let filtered = group.filtered.iter().map(|rule| rule.call.as_str());
            let mut all = group
                .calls
                .iter()
                .chain(&group.x86_64)
                .chain(&group.aarch64)
                .map(String::as_str)
                .chain(filtered);
            assert_eq!(all.find(|name| never.contains(name)), None, "{}", group.name);
        }
    }

    #[test]
    fn what_the_configuration_adds_is_known_or_refused() {
        let add = |name: &str| Filters::new(Seccomp::Kill, &[name.to_owned()]);
        add("@driver-processes").unwrap();
        add("socket").unwrap();
        assert!(matches!(add("@nonsense"), Err(PolicyError::UnknownGroup(_))));
        assert!(matches!(add("nonsense"), Err(PolicyError::Filter(_))));
    }

    #[test]
    fn a_driver_that_needs_no_processes_gets_a_smaller_list() {
        let size = |filters: &BpfMap| filters["allowed"].len();
        let filters = Filters::new(Seccomp::Kill, &[]).unwrap();
        assert!(size(&filters.every_driver) < size(&filters.any_driver));
        let filters = Filters::new(Seccomp::Kill, &["@driver-processes".to_owned()]).unwrap();
        assert_eq!(size(&filters.every_driver), size(&filters.any_driver));
    }
}
