//! An executor without a device: says yes to everything, and runs nothing.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::channel::Channel;
use super::message::{ContextUsage, ToBroker, ToExecutor};

/// Runs the executor until the broker hangs up.
pub fn main(socket: UnixStream) -> ExitCode {
    let channel = Channel::new(socket);
    while let Ok(Some((message, _fds))) = channel.recv::<ToExecutor>() {
        let answer = match message {
            ToExecutor::Hello { .. } => ToBroker::Ready { devices: vec!["none".into()] },
            ToExecutor::RemoveRegion { context, region } => ToBroker::RegionRemoved { context, region },
            ToExecutor::DestroyContext { context } => {
                ToBroker::ContextDestroyed { context, usage: ContextUsage::default() }
            }
            ToExecutor::Quiesce => ToBroker::Quiesced,
            _ => continue,
        };
        if channel.send(&answer, &[]).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}
