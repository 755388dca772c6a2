//! Asks an executor what the host has: the broker itself loads no driver.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Launcher;
use crate::executor::channel::{Channel, ChannelError};
use crate::executor::devices::HostDeviceInfo;
use crate::executor::message::{ToBroker, ToExecutor};

/// How long drivers may take to say what there is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The executor could not be started.
    #[error("an executor could not be started: {0}")]
    Start(#[source] io::Error),
    /// It did not answer as it should.
    #[error("an executor did not say which devices there are ({0}); its log lines above tell more")]
    Channel(#[from] ChannelError),
    /// It ended.
    #[error("an executor ended before it said which devices there are ({0})")]
    Ended(String),
    /// There is no OpenCL.
    #[error("{0}")]
    NoDevice(String),
}

/// The host's devices, of all OpenCL platforms.
pub fn probe(launcher: &dyn Launcher) -> Result<Vec<HostDeviceInfo>, ProbeError> {
    let (ours, theirs) = UnixStream::pair().map_err(ProbeError::Start)?;
    ours.set_read_timeout(Some(PATIENCE)).map_err(ProbeError::Start)?;
    let mut running = launcher.launch("probe", theirs).map_err(ProbeError::Start)?;
    let channel = Channel::new(ours);
    let answer =
        channel.send(&ToExecutor::Probe, &[]).map_err(ChannelError::from).and_then(|()| channel.recv());
    let end = running.kill();
    match answer? {
        Some((ToBroker::Found { devices }, _)) => Ok(devices),
        Some((ToBroker::NoDevice { reason }, _)) => {
            Err(ProbeError::NoDevice(crate::guest_log::printable(&reason)))
        }
        Some(_) | None => Err(ProbeError::Ended(end)),
    }
}
