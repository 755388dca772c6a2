//! The kernel driver that a guest reaches its vGPU by: Linux's own or paragpu's.

use crate::guest_module;
use crate::kernel::Software;
use crate::modules::Module;
use anyhow::Result;
use clap::ValueEnum;
use std::path::Path;

/// The virtio id of paragpu's own device, which paragpu's module drives without being told.
pub(crate) const OWN_VIRTIO_ID: u16 = 62;

/// Which driver the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GuestDriver {
    /// The kernel's virtio_gpu.
    Mainline,
    /// paragpu's own module, built for the kernel.
    Module,
}

impl GuestDriver {
    /// The file that shows in the guest once the driver has taken the device.
    pub(crate) fn node(self) -> &'static str {
        match self {
            GuestDriver::Mainline => "/dev/dri/renderD128",
            GuestDriver::Module => "/dev/paragpu0",
        }
    }

    /// The kernel's own modules that it needs.
    pub(crate) fn kernel_modules(self) -> &'static [&'static str] {
        match self {
            GuestDriver::Mainline => &["virtio-gpu"],
            GuestDriver::Module => &["virtio"],
        }
    }

    /// What is loaded after them, for a device with this virtio id.
    pub(crate) fn own_module(
        self,
        virtio_id: u16,
        software: &Software,
        cache: &Path,
        quiet: bool,
    ) -> Result<Option<Module>> {
        if self == GuestDriver::Mainline {
            return Ok(None);
        }
        let bytes = guest_module::built(software, cache, quiet)?;
        Ok(Some(Module { name: "paragpu".to_owned(), bytes, parameters: self.parameters(virtio_id) }))
    }

    /// What its own module is told to drive such a device.
    pub(crate) fn parameters(self, virtio_id: u16) -> String {
        match (self, virtio_id) {
            (GuestDriver::Mainline, _) | (_, OWN_VIRTIO_ID) => String::new(),
            (GuestDriver::Module, other) => format!("claim_id={other}"),
        }
    }
}
