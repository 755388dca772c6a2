//! Whether guests of VMMs other than QEMU have a vGPU.

use crate::guest_driver::GuestDriver;
use crate::guest_job::Job;
use crate::vm::VmOptions;
use crate::vm_run::Output;
use crate::vmm::Vmm;
use anyhow::{Result, bail};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// A VMM with a driver in its guest.
pub(crate) struct Combination {
    pub(crate) name: &'static str,
    vmm: Vmm,
    guest: GuestDriver,
}

/// What is checked.
pub(crate) const COMBINATIONS: [Combination; 2] = [
    Combination { name: "alioth, Linux's driver", vmm: Vmm::Alioth, guest: GuestDriver::Mainline },
    Combination {
        name: "cloud-hypervisor, paragpu's module",
        vmm: Vmm::CloudHypervisor,
        guest: GuestDriver::Module,
    },
];

impl Combination {
    /// Why it cannot be checked on this host, if so.
    pub(crate) fn obstacle(&self, options: &VmOptions) -> Option<String> {
        options.on_vmm(self.vmm, self.guest).missing_program()
    }

    /// Runs clinfo in a guest.
    pub(crate) fn check(&self, options: &VmOptions) -> Result<()> {
        let job = Job::new(vec!["clinfo".into(), "-l".into()], &[])?;
        let said = Said::default();
        let output = Output { stdout: Box::new(said.clone()), stderr: Box::new(io::stderr()) };
        let outcome = options.on_vmm(self.vmm, self.guest).boot(&job, output)?;
        let text = said.text();
        print!("{text}");
        if outcome.status != 0 || !text.contains("paragpu") || !text.contains("Device #0") {
            bail!("clinfo found no device of paragpu in the guest (exit status {})", outcome.status);
        }
        Ok(())
    }
}

/// What a guest's job writes.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
