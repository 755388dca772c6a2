//! Shared folders of guests that do not see the host's files: the guest sends what is in them when its job has ended.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

/// The port of the first shared folder; those of the others follow.
const FIRST_PORT: u32 = 4;

/// The guest's port for the shared folder with this index.
pub(crate) fn port(index: usize) -> u32 {
    FIRST_PORT + u32::try_from(index).expect("a command line has few folders")
}

/// Unpacks the archive that comes from a port in `folder`. Nothing comes where the guest ended early.
pub(crate) fn unpack(mut from: impl Read + Send + 'static, folder: PathBuf) -> JoinHandle<Result<()>> {
    std::thread::spawn(move || {
        let mut archive = Vec::new();
        from.read_to_end(&mut archive).context("cannot read what the guest sends")?;
        if archive.is_empty() {
            return Ok(());
        }
        let mut command = Command::new("tar");
        command.args(["--extract", "--no-same-owner", "--file=-", "--directory"]).arg(&folder);
        let mut tar = command.stdin(Stdio::piped()).spawn().context("cannot start tar")?;
        let written = tar.stdin.take().context("tar has no standard input")?.write_all(&archive);
        let status = tar.wait().context("cannot wait for tar")?;
        if written.is_err() || !status.success() {
            bail!("cannot unpack what the guest left in {} ({status})", folder.display());
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::unpack;
    use std::process::Command;

    #[test]
    fn what_a_guest_left_in_a_folder_is_there_afterwards() {
        let (guest, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(guest.path().join("picture"), "pixels").unwrap();
        let archive =
            Command::new("tar").args(["-c", "-C"]).arg(guest.path()).arg(".").output().unwrap().stdout;
        unpack(std::io::Cursor::new(archive), host.path().to_owned()).join().unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(host.path().join("picture")).unwrap(), "pixels");
    }

    #[test]
    fn a_guest_that_sent_nothing_is_no_mistake_and_half_an_archive_is_one() {
        let folder = tempfile::tempdir().unwrap();
        unpack(std::io::empty(), folder.path().to_owned()).join().unwrap().unwrap();
        assert!(unpack(&b"no archive"[..], folder.path().to_owned()).join().unwrap().is_err());
    }
}
