//! seccomp: which system calls an executor may make. The policy is data, with the reasons.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};
use serde::Deserialize;

use crate::executor::confinement::Seccomp;

const POLICY: &str = include_str!("../../../../resources/seccomp/executor.toml");

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The policy is not what it should be.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// Names a group that the policy lacks.
    #[error("there is no group {0}")]
    UnknownGroup(String),
    /// Names a system call that this architecture lacks.
    #[error("there is no system call {0} on this architecture")]
    UnknownCall(String),
    /// Names an error that nothing here knows.
    #[error("there is no error {0}")]
    UnknownErrno(String),
    /// A condition that is none: it has `is`, `not`, or `mask` and `is`.
    #[error("a condition on {0} is none")]
    Condition(String),
    /// Not x86-64 and not aarch64.
    #[error("there is no policy for {0}")]
    Architecture(&'static str),
    /// Not to be made a filter of.
    #[error(transparent)]
    Filter(#[from] seccompiler::BackendError),
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

impl Rule {
    fn build(&self) -> Result<SeccompRule, PolicyError> {
        let mut conditions = Vec::new();
        for condition in &self.args {
            let (operator, operand) = match (&condition.is, &condition.not, condition.mask) {
                (Some(is), None, Some(mask)) => (SeccompCmpOp::MaskedEq(mask), is),
                (Some(is), None, None) => (SeccompCmpOp::Eq, is),
                (None, Some(not), None) => (SeccompCmpOp::Ne, not),
                _ => return Err(PolicyError::Condition(self.call.clone())),
            };
            let width = match condition.width {
                None => SeccompCmpArgLen::Qword,
                Some(32) => SeccompCmpArgLen::Dword,
                Some(_) => return Err(PolicyError::Condition(self.call.clone())),
            };
            conditions.push(SeccompCondition::new(condition.index, width, operator, operand.value())?);
        }
        Ok(SeccompRule::new(conditions)?)
    }
}

impl Group {
    /// Calls that it names without conditions.
    fn names(&self, target: TargetArch) -> impl Iterator<Item = &str> {
        let own = if target == TargetArch::aarch64 { &self.aarch64 } else { &self.x86_64 };
        self.calls.iter().chain(own).map(String::as_str)
    }

    /// True if only some drivers need it.
    fn is_optional(&self) -> bool {
        !self.needed_by.is_empty()
    }
}

/// System calls, each with rules of which one must hold; without any it always does.
#[derive(Debug, Default)]
struct Calls(BTreeMap<i64, Vec<SeccompRule>>);

impl Calls {
    fn add_group(&mut self, group: &Group, target: TargetArch) -> Result<(), PolicyError> {
        for name in group.names(target) {
            self.0.insert(number(name, target)?, Vec::new());
        }
        for rule in &group.filtered {
            self.0.entry(number(&rule.call, target)?).or_default().push(rule.build()?);
        }
        Ok(())
    }

    /// What is done with these calls, and with all others.
    fn compile(
        self,
        matching: SeccompAction,
        others: SeccompAction,
        target: TargetArch,
    ) -> Result<BpfProgram, PolicyError> {
        Ok(SeccompFilter::new(self.0, others, matching, target)?.try_into()?)
    }
}

fn number(name: &str, target: TargetArch) -> Result<i64, PolicyError> {
    let number = match target {
        TargetArch::aarch64 => name.parse().map(|call: syscalls::aarch64::Sysno| call.id()),
        _ => name.parse().map(|call: syscalls::x86_64::Sysno| call.id()),
    };
    number.map(i64::from).map_err(|()| PolicyError::UnknownCall(name.to_owned()))
}

/// That a call fails with this error, or with 0 does nothing and says that it did.
fn refusal(name: &str) -> Result<SeccompAction, PolicyError> {
    let error = match name {
        "0" => return Ok(SeccompAction::Errno(0)),
        "EAFNOSUPPORT" => Errno::AFNOSUPPORT,
        "ENOSYS" => Errno::NOSYS,
        "EPERM" => Errno::PERM,
        _ => return Err(PolicyError::UnknownErrno(name.to_owned())),
    };
    Ok(SeccompAction::Errno(error.raw_os_error() as u32))
}

fn this_architecture() -> Result<TargetArch, PolicyError> {
    let name = std::env::consts::ARCH;
    match TargetArch::try_from(name) {
        Ok(target @ (TargetArch::x86_64 | TargetArch::aarch64)) => Ok(target),
        _ => Err(PolicyError::Architecture(name)),
    }
}

/// The filters of an executor. The strictest of them decides.
#[derive(Debug)]
pub(super) struct Filters {
    /// What any driver may do, and the quiet refusals.
    programs: Vec<BpfProgram>,
    /// For each group that only some platforms need: those, and a filter that takes it away.
    optional: Vec<(Vec<String>, BpfProgram)>,
}

impl Filters {
    /// The policy's, with what is allowed beside it: names of calls, and of groups as `@name`.
    pub(super) fn new(action: Seccomp, also: &[String]) -> Result<Filters, PolicyError> {
        Filters::for_target(action, also, this_architecture()?)
    }

    fn for_target(action: Seccomp, also: &[String], target: TargetArch) -> Result<Filters, PolicyError> {
        let policy: Policy = toml::from_str(POLICY)?;
        let groups: BTreeSet<&str> = also.iter().filter_map(|name| name.strip_prefix('@')).collect();
        if let Some(unknown) =
            groups.iter().find(|name| !policy.group.iter().any(|group| group.name == **name))
        {
            return Err(PolicyError::UnknownGroup((*unknown).to_owned()));
        }
        let mut always = BTreeSet::new();
        for name in also.iter().filter(|name| !name.starts_with('@')) {
            always.insert(number(name, target)?);
        }
        let otherwise = match action {
            Seccomp::Kill => SeccompAction::KillProcess,
            Seccomp::Log => SeccompAction::Log,
            Seccomp::Trap => SeccompAction::Trap,
            Seccomp::None => return Ok(Filters { programs: Vec::new(), optional: Vec::new() }),
        };

        let mut allowed = Calls::default();
        let mut refused: BTreeMap<&str, Calls> = BTreeMap::new();
        let mut optional = Vec::new();
        for group in &policy.group {
            // What is refused quietly has to pass this list, too.
            allowed.add_group(group, target)?;
            if groups.contains(group.name.as_str()) {
                continue;
            }
            if group.is_optional() {
                let mut calls = Calls::default();
                calls.add_group(group, target)?;
                calls.0.retain(|call, _| !always.contains(call));
                let refusal = group.errno.as_deref().map_or(Ok(otherwise.clone()), refusal)?;
                let program = calls.compile(refusal, SeccompAction::Allow, target)?;
                optional.push((group.needed_by.clone(), program));
            } else if let Some(errno) = &group.errno {
                refused.entry(errno).or_default().add_group(group, target)?;
            }
        }
        allowed.0.extend(always.iter().map(|call| (*call, Vec::new())));
        let mut programs = vec![allowed.compile(SeccompAction::Allow, otherwise, target)?];
        for (name, mut calls) in refused {
            calls.0.retain(|call, _| !always.contains(call));
            programs.push(calls.compile(refusal(name)?, SeccompAction::Allow, target)?);
        }
        Ok(Filters { programs, optional })
    }

    /// Filters this process's system calls, for good.
    pub(super) fn apply(&self) -> Result<(), seccompiler::Error> {
        self.programs.iter().try_for_each(|program| apply_filter_all_threads(program))
    }

    /// Takes away what the driver of this platform does not need.
    pub(super) fn driver_loaded(&self, platform: &str) -> Result<(), seccompiler::Error> {
        let unneeded =
            self.optional.iter().filter(|(platforms, _)| !platforms.iter().any(|it| it == platform));
        unneeded.map(|(_, program)| program).try_for_each(|program| apply_filter_all_threads(program))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: [TargetArch; 2] = [TargetArch::x86_64, TargetArch::aarch64];

    #[test]
    fn the_policy_makes_filters_for_every_action_and_architecture() {
        for target in TARGETS {
            for action in [Seccomp::Kill, Seccomp::Log, Seccomp::Trap] {
                let filters = Filters::for_target(action, &[], target).unwrap();
                assert_eq!(filters.programs.len(), 5, "what is allowed, and four ways of refusing quietly");
                assert_eq!(filters.optional.len(), 2);
            }
        }
    }

    #[test]
    fn every_group_has_a_reason_and_no_call_is_allowed_twice() {
        let policy: Policy = toml::from_str(POLICY).unwrap();
        for target in TARGETS {
            let mut names = BTreeSet::new();
            for group in &policy.group {
                assert!(group._reason.len() > 10, "{}", group.name);
                for name in group.names(target) {
                    assert!(names.insert(name), "{name} in {}", group.name);
                }
            }
            for rule in policy.group.iter().flat_map(|group| &group.filtered) {
                assert!(
                    !names.contains(rule.call.as_str()),
                    "{}: an argument is looked at in vain",
                    rule.call
                );
            }
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
        add("connect").unwrap();
        assert!(matches!(add("@nonsense"), Err(PolicyError::UnknownGroup(_))));
        assert!(matches!(add("nonsense"), Err(PolicyError::UnknownCall(_))));
        assert_eq!(add("@driver-processes").unwrap().optional.len(), 1, "it is not taken away");
        let (usual, more) = (Filters::new(Seccomp::Kill, &[]).unwrap(), add("@no-network").unwrap());
        assert_eq!(more.programs.len(), usual.programs.len() - 1, "it is not refused");
    }
}
