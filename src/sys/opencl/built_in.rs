//! Built-in kernels: which of those that a device lists can be used.
//!
//! Drivers list kernels that they cannot make (PoCL's source for them is not in every package), and a guest may only set
//! arguments of which is known what they are. So each is tried before it is offered.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

use cl3::device::{CL_DEVICE_BUILT_IN_KERNELS, CL_DEVICE_BUILT_IN_KERNELS_WITH_VERSION, CL_DEVICE_NAME};

use super::handle::{Context, Program};
use super::kernel::Kernel;
use super::query::{Device, Platform};
use crate::sys::compute::ClError;

/// A `cl_name_version`: a number, and 64 bytes of name.
const NAME_VERSION_BYTES: usize = 4 + 64;

/// The built-in kernels that work, by the devices' names and what they list; tried when they are first asked for.
#[derive(Debug, Default)]
pub struct BuiltIns(Mutex<HashMap<Vec<u8>, Names>>);

/// Names of kernels.
type Names = Arc<Vec<Vec<u8>>>;

impl BuiltIns {
    /// True if this is a parameter that is answered here.
    pub fn answers(param: u32) -> bool {
        matches!(param, CL_DEVICE_BUILT_IN_KERNELS | CL_DEVICE_BUILT_IN_KERNELS_WITH_VERSION)
    }

    /// The device's answer, without those that do not work.
    pub fn answer(&self, platform: Platform, device: &Device, param: u32) -> Result<Vec<u8>, ClError> {
        let listed = device.info(param)?;
        let names = self.working(platform, device)?;
        if param == CL_DEVICE_BUILT_IN_KERNELS {
            let mut list = names.join(&b';');
            list.push(0);
            return Ok(list);
        }
        let is_kept = |entry: &&[u8]| names.iter().any(|name| name == until_nul(&entry[4..]));
        Ok(listed.chunks_exact(NAME_VERSION_BYTES).filter(is_kept).flatten().copied().collect())
    }

    fn working(&self, platform: Platform, device: &Device) -> Result<Names, ClError> {
        let listed = device.info(CL_DEVICE_BUILT_IN_KERNELS)?;
        let key = [&device.info(CL_DEVICE_NAME)?[..], &listed].concat();
        // Others wait: trying takes a compiler's time, and once is enough.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.entry(key).or_insert_with(|| Arc::new(working(platform, device, &listed))).clone())
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn working(platform: Platform, device: &Device, listed: &[u8]) -> Vec<Vec<u8>> {
    let names = until_nul(listed).split(|byte| *byte == b';').filter(|name| !name.is_empty());
    let works = |name: &&[u8]| match try_one(platform, device, name) {
        Ok(()) => true,
        Err(error) => {
            log::debug!("built-in kernel {}: {error}", String::from_utf8_lossy(name));
            false
        }
    };
    names.filter(works).map(<[u8]>::to_vec).collect()
}

fn try_one(platform: Platform, device: &Device, name: &[u8]) -> Result<(), ClError> {
    let name = CString::new(name).map_err(|_nul| ClError::INVALID_VALUE)?;
    let context = Context::new(&platform, &[device])?;
    let program = Program::with_built_in_kernels(&context, &[device], &name)?;
    // Some drivers want these to be built, others refuse it.
    let built = program.build(&[device], c"-cl-kernel-arg-info");
    Kernel::new(&program, &name, None).map_err(|error| built.err().unwrap_or(error))?;
    Ok(())
}
