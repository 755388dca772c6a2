//! The one platform, and its devices.

use std::sync::{Arc, Mutex};

use opencl_sys::{
    CL_DEVICE_TYPE_ALL, CL_DEVICE_TYPE_CUSTOM, CL_DEVICE_TYPE_DEFAULT, CL_PLATFORM_EXTENSIONS,
    CL_PLATFORM_EXTENSIONS_WITH_VERSION, CL_PLATFORM_HOST_TIMER_RESOLUTION, CL_PLATFORM_ICD_SUFFIX_KHR,
    CL_PLATFORM_NAME, CL_PLATFORM_NUMERIC_VERSION, CL_PLATFORM_PROFILE, CL_PLATFORM_VENDOR,
    CL_PLATFORM_VERSION,
};
use paragpu_protocol::info::{DEVICE_COUNT, InfoKind};
use paragpu_protocol::limits::MAX_DEVICES;

use crate::boundary::object::{Kind, Object};
use crate::core::connection::Connection;
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult};
use crate::core::extensions::{self, CommandBufferVersion, version};
use crate::core::info::{self, Info};
use crate::core::query::Question;
use crate::core::{lock, timers};

/// The platform object. There is one, for the life of the process.
#[derive(Debug)]
pub(crate) struct Platform;

impl Kind for Platform {
    const TAG: u32 = u32::from_le_bytes(*b"plat");
    const INVALID: ClError = ClError::INVALID_PLATFORM;
}

impl Platform {
    /// `clGetPlatformInfo`.
    pub(crate) fn info(param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_PLATFORM_PROFILE => Info::text("FULL_PROFILE"),
            CL_PLATFORM_VERSION => Info::text(concat!("OpenCL 3.0 paragpu ", env!("CARGO_PKG_VERSION"))),
            CL_PLATFORM_NUMERIC_VERSION => Info::value(version(3, 0)),
            CL_PLATFORM_NAME | CL_PLATFORM_VENDOR => Info::text("paragpu"),
            CL_PLATFORM_ICD_SUFFIX_KHR => Info::text("PARAGPU"),
            CL_PLATFORM_EXTENSIONS => Info::text(&extensions()),
            // Older hosts have no such list, and no extensions that pass either.
            CL_PLATFORM_EXTENSIONS_WITH_VERSION => {
                extensions::platform_extensions_with_version(&ask(param).unwrap_or_default()).into()
            }
            CL_PLATFORM_HOST_TIMER_RESOLUTION => Info::value(timers::resolution()),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}

/// The host's answer about its platform.
pub(crate) fn ask(param: u32) -> ClResult<Vec<u8>> {
    let question = Question { kind: InfoKind::Platform, object: 0, param, index: 0 };
    question.ask(&*Connection::current()?)
}

/// `CL_PLATFORM_EXTENSIONS`.
pub(crate) fn extensions() -> String {
    extensions::platform_extensions(&info::text(&ask(CL_PLATFORM_EXTENSIONS).unwrap_or_default()))
}

/// What was found at first use, kept for the life of the process.
#[derive(Debug)]
pub(crate) struct Found {
    /// The platform.
    pub(crate) platform: Arc<Object<Platform>>,
    /// Its devices, by index.
    pub(crate) devices: Vec<Arc<Object<Device>>>,
}

static FOUND: Mutex<Option<&'static Found>> = Mutex::new(None);

/// The platform and its devices. A failure is not remembered: the device may appear later.
pub(crate) fn found() -> ClResult<&'static Found> {
    let mut found = lock(&FOUND);
    if let Some(found) = *found {
        return Ok(found);
    }
    let connection = Connection::current()?;
    let count = Question::device(DEVICE_COUNT, 0).ask(&connection)?;
    let count = info::number::<u32>(&count).unwrap_or(0).min(MAX_DEVICES as u32);
    if count == 0 {
        return Err(ClError::DEVICE_NOT_FOUND);
    }
    let all = Found {
        platform: Object::new(Platform),
        devices: (0..count).map(|index| Object::new(Device::root(index))).collect(),
    };
    // The specification gives platforms and devices no end, so that handles of them never dangle.
    all.platform.retain();
    all.devices.iter().for_each(|device| device.retain());
    Ok(found.insert(Box::leak(Box::new(all))))
}

/// The version of command buffers for which functions are given out: that of the first device that has them.
pub(crate) fn command_buffer_version() -> Option<CommandBufferVersion> {
    found().ok()?.devices.iter().find_map(|device| device.command_buffer_version())
}

/// True if a device has `cl_khr_command_buffer_mutable_dispatch`.
pub(crate) fn has_mutable_dispatch() -> bool {
    found().is_ok_and(|found| found.devices.iter().any(|device| device.mutable_dispatch_version().is_some()))
}

/// The devices of a type, by the rules of `clGetDeviceIDs`.
pub(crate) fn devices_of_type(wanted: u64) -> ClResult<Vec<Arc<Object<Device>>>> {
    // CL_INVALID_DEVICE_TYPE if device_type is not a valid value.
    const KNOWN: u64 = CL_DEVICE_TYPE_CUSTOM << 1;
    if wanted == 0 || (wanted != CL_DEVICE_TYPE_ALL && wanted >= KNOWN) {
        return Err(ClError::INVALID_DEVICE_TYPE);
    }
    let all = &found()?.devices;
    let is_wanted = |index: usize, device: &Device| match device.device_type() {
        // CL_DEVICE_TYPE_ALL: all devices except for CL_DEVICE_TYPE_CUSTOM.
        kind if wanted == CL_DEVICE_TYPE_ALL => kind & CL_DEVICE_TYPE_CUSTOM == 0,
        kind => {
            kind & wanted & !CL_DEVICE_TYPE_DEFAULT != 0
                || (wanted & CL_DEVICE_TYPE_DEFAULT != 0 && index == 0)
        }
    };
    let devices: Vec<_> = all
        .iter()
        .enumerate()
        .filter(|(index, device)| is_wanted(*index, device))
        .map(|(_, d)| d.clone())
        .collect();
    // CL_DEVICE_NOT_FOUND if no OpenCL devices that matched device_type were found.
    if devices.is_empty() { Err(ClError::DEVICE_NOT_FOUND) } else { Ok(devices) }
}
