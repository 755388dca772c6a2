//! In a guest without virtio-serial ports: copies standard input to a port of the host, over vsock.

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use std::io::{Read, copy, stdin};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

const HOST_CID: u32 = 2;
const ATTEMPTS: u32 = 40;
/// How long the host may take to close its end.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// Copy standard input to a vsock port of the host (in guests of `vm`).
#[derive(Args)]
pub(crate) struct GuestPort {
    port: u32,
}

impl GuestPort {
    /// Copies until the end of standard input, and until the host has seen it.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        // The functions used on it are those of any stream socket.
        let mut host = UnixStream::from(connected(self.port)?);
        copy(&mut stdin(), &mut host).context("the host takes no more")?;
        host.shutdown(std::net::Shutdown::Write).context("cannot end the stream")?;
        host.set_read_timeout(Some(CLOSE_LIMIT)).context("cannot set a timeout")?;
        let _ = host.read(&mut [0]);
        Ok(ExitCode::SUCCESS)
    }
}

fn connected(port: u32) -> Result<OwnedFd> {
    let mut attempt = 0;
    loop {
        let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let socket = socket.context("this kernel has no vsock")?;
        match connect(socket.as_raw_fd(), &VsockAddr::new(HOST_CID, port)) {
            Ok(()) => return Ok(socket),
            Err(error) if attempt == ATTEMPTS => {
                return Err(error).with_context(|| format!("cannot connect to port {port} of the host"));
            }
            Err(_) => attempt += 1,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
