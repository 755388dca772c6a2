//! What runs in a VM: a command with its folder, environment and writable shares, as a shell script for the guest.

use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A command to be run in a guest.
pub(crate) struct Job {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Where it runs.
    pub(crate) directory: PathBuf,
    /// Its whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Host folders that it can write to, at the same path.
    pub(crate) shares: Vec<PathBuf>,
    /// Whether the guest reboots, and runs it again, where it leaves a file /run/paragpu-vm/reboot behind.
    pub(crate) may_reboot: bool,
}

impl Job {
    /// A job in the current folder with the part of this process's environment that also makes sense in the guest.
    pub(crate) fn new(command: Vec<OsString>, shares: &[PathBuf]) -> Result<Job> {
        let shares = shares.iter().map(|share| usable_share(share)).collect::<Result<_>>()?;
        Ok(Job {
            command,
            directory: std::env::current_dir().context("the current folder is gone")?,
            environment: std::env::vars_os().filter(|(name, _)| belongs_in_guest(name)).collect(),
            shares,
            may_reboot: false,
        })
    }

    /// A script for the guest's `/bin/sh` that becomes the command.
    pub(crate) fn script(&self) -> Vec<u8> {
        let mut script = b"#!/bin/sh\n".to_vec();
        for (name, value) in &self.environment {
            script.extend_from_slice(b"export ");
            script.extend_from_slice(name.as_bytes());
            script.push(b'=');
            quote(&mut script, value);
            script.push(b'\n');
        }
        script.extend_from_slice(b"cd ");
        quote(&mut script, self.directory.as_os_str());
        script.extend_from_slice(b" || exit 126\nexec");
        for word in &self.command {
            script.push(b' ');
            quote(&mut script, word);
        }
        script.push(b'\n');
        script
    }

    /// The list of writable folders, one per line, in the order of their mount tags.
    pub(crate) fn share_list(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for share in &self.shares {
            list.extend_from_slice(share.as_os_str().as_bytes());
            list.push(b'\n');
        }
        list
    }
}

fn usable_share(share: &Path) -> Result<PathBuf> {
    let path = share.canonicalize().with_context(|| format!("cannot share {}", share.display()))?;
    if !path.is_dir() || path.as_os_str().as_bytes().contains(&b'\n') {
        bail!("cannot share {}: not a folder with an ordinary name", share.display());
    }
    Ok(path)
}

/// Whether a variable of the host's environment is passed on.
fn belongs_in_guest(name: &OsStr) -> bool {
    const NAMES: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TERM"];
    const PREFIXES: [&str; 3] = ["LC_", "RUST_", "PARAGPU_"];
    let Some(name) = name.to_str() else {
        return false;
    };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain && (NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

/// Appends `text` as one word of a shell script.
fn quote(script: &mut Vec<u8>, text: &OsStr) {
    script.push(b'\'');
    for byte in text.as_bytes() {
        match byte {
            b'\'' => script.extend_from_slice(b"'\\''"),
            byte => script.push(*byte),
        }
    }
    script.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::{Job, belongs_in_guest};
    use std::ffi::OsStr;
    use std::process::Command;

    #[test]
    fn the_script_passes_odd_arguments_and_values_through() {
        let odd = "it's \"a\" $HOME\n`x` \\ *";
        let job = Job {
            command: ["sh", "-c", "printf '%s|%s|' \"$1\" \"$VALUE\"; pwd", "sh", odd].map(Into::into).into(),
            directory: "/usr".into(),
            environment: vec![("VALUE".into(), odd.into()), ("PATH".into(), "/usr/bin:/bin".into())],
            shares: Vec::new(),
            may_reboot: false,
        };
        let script = String::from_utf8(job.script()).unwrap();
        let output = Command::new("sh").args(["-c", &script]).env_clear().output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{odd}|{odd}|/usr\n"));
    }

    #[test]
    fn only_known_variables_reach_the_guest() {
        assert!(belongs_in_guest(OsStr::new("RUST_LOG")));
        assert!(!belongs_in_guest(OsStr::new("OCL_ICD_VENDORS")));
        assert!(!belongs_in_guest(OsStr::new("LC_x;rm")));
    }
}
