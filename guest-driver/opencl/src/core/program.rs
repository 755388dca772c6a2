//! Programs, built from source by the host.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use opencl_sys::{
    CL_BUILD_IN_PROGRESS, CL_BUILD_NONE, CL_INVALID_BINARY, CL_PROGRAM_BINARIES, CL_PROGRAM_BINARY_SIZES,
    CL_PROGRAM_BINARY_TYPE, CL_PROGRAM_BINARY_TYPE_NONE, CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE,
    CL_PROGRAM_BUILD_LOG, CL_PROGRAM_BUILD_OPTIONS, CL_PROGRAM_BUILD_STATUS, CL_PROGRAM_CONTEXT,
    CL_PROGRAM_DEVICES, CL_PROGRAM_IL, CL_PROGRAM_KERNEL_NAMES, CL_PROGRAM_NUM_DEVICES,
    CL_PROGRAM_NUM_KERNELS, CL_PROGRAM_REFERENCE_COUNT, CL_PROGRAM_SCOPE_GLOBAL_CTORS_PRESENT,
    CL_PROGRAM_SCOPE_GLOBAL_DTORS_PRESENT, CL_PROGRAM_SOURCE,
};
use paragpu_protocol::command::{BuildProgram, CreateProgram, Release};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::limits::{MAX_INLINE_BYTES, MAX_SOURCE_BYTES};
use paragpu_protocol::types::{Create, Span};
use zerocopy::little_endian::U32;

use crate::boundary::callback::{Callback, HandleFn};
use crate::boundary::object::{Kind, Object};
use crate::core::binary::Binary;
use crate::core::connection::Connection;
use crate::core::context::{self, Context};
use crate::core::device::{self, Device};
use crate::core::error::{ClError, ClResult};
use crate::core::includes;
use crate::core::info::{self, Info};
use crate::core::lock;
use crate::core::query::Question;
use crate::core::slots::Slot;

/// A program.
#[derive(Debug)]
pub(crate) struct Program {
    context: Arc<Object<Context>>,
    id: u32,
    source: Vec<u8>,
    /// The options that a program from a binary was built with: it is built with the same.
    binary_options: Option<Vec<u8>>,
    build: Mutex<Build>,
    kernels: AtomicUsize,
}

/// How far building is. The host refuses every use of a program while it is being built, so whatever sends such a
/// use holds this lock meanwhile.
#[derive(Debug, Default)]
struct Build {
    is_running: bool,
    has_executable: bool,
    /// The text that the host has, where it is not the source but that with included files.
    expanded: Option<Vec<u8>>,
    /// The options of each device's last build, by the host's name for the device.
    options: BTreeMap<u32, String>,
}

impl Kind for Program {
    const TAG: u32 = u32::from_le_bytes(*b"prog");
    const INVALID: ClError = ClError::INVALID_PROGRAM;
}

/// Held by a kernel: a program that has kernels cannot be built again.
#[derive(Debug)]
pub(crate) struct KernelShare(Arc<Object<Program>>);

impl KernelShare {
    /// The program.
    pub(crate) fn program(&self) -> &Arc<Object<Program>> {
        &self.0
    }
}

impl Drop for KernelShare {
    fn drop(&mut self) {
        self.0.kernels.fetch_sub(1, Ordering::Relaxed);
    }
}

fn post_source(connection: &Connection, create: Create, source: &[u8]) -> ClResult<()> {
    if source.len() as u64 > MAX_SOURCE_BYTES {
        return Err(ClError::OUT_OF_RESOURCES);
    }
    if source.len() <= MAX_INLINE_BYTES as usize && !source.is_empty() {
        return connection.send(&CreateProgram { create, source: Span::NONE }, &[], source);
    }
    let mut staging = connection.staging(source.len())?;
    staging.write(0, source);
    let slot = connection.slot()?;
    let create = Create { reply: slot.to_ref(), ..create };
    connection.send(&CreateProgram { create, source: staging.span() }, &[], &[])?;
    connection.retire(slot, Some(staging));
    Ok(())
}

impl Program {
    /// `clCreateProgramWithSource`, with the strings put together.
    pub(crate) fn with_source(context: &Object<Context>, source: Vec<u8>) -> ClResult<Arc<Object<Program>>> {
        Program::new(context, source, None)
    }

    /// `clCreateProgramWithBinary`, with the binary of one device.
    pub(crate) fn with_binary(context: &Object<Context>, binary: &[u8]) -> ClResult<Arc<Object<Program>>> {
        // CL_INVALID_BINARY if an invalid program binary was encountered for any device.
        let Binary { text, options } = Binary::read(binary).ok_or(ClError(CL_INVALID_BINARY))?;
        Program::new(context, text, Some(options))
    }

    fn new(
        context: &Object<Context>,
        source: Vec<u8>,
        binary_options: Option<Vec<u8>>,
    ) -> ClResult<Arc<Object<Program>>> {
        let connection = context.connection();
        let id = connection.new_id();
        post_source(connection, context::create(id, context.id()), &source)?;
        Ok(Object::new(Program {
            context: context.arc(),
            id,
            source,
            binary_options,
            build: Mutex::default(),
            kernels: AtomicUsize::new(0),
        }))
    }

    /// The program's context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        &self.context
    }

    /// What the host calls the program.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    fn connection(&self) -> &Connection {
        self.context.connection()
    }

    /// Runs `use_it`, which sends something to the host that needs the built program.
    pub(crate) fn when_built<T>(&self, use_it: impl FnOnce() -> ClResult<T>) -> ClResult<T> {
        let build = lock(&self.build);
        // CL_INVALID_PROGRAM_EXECUTABLE if there is no successfully built executable for program.
        if build.is_running || !build.has_executable {
            return Err(ClError::INVALID_PROGRAM_EXECUTABLE);
        }
        use_it()
    }

    /// Posts the build of devices of the context: all of them if there are none.
    fn start_build(&self, devices: &[Arc<Object<Device>>], options: &[u8]) -> ClResult<Slot> {
        let options = self.binary_options.as_deref().unwrap_or(options);
        let all = if devices.is_empty() { self.context.devices() } else { devices };
        let all = all.iter().map(|device| self.context.reference(device)).collect::<ClResult<Vec<_>>>()?;
        let named = if devices.is_empty() { &[] } else { &all[..] };
        let named = named.iter().flat_map(|reference| reference.to_le_bytes());
        let data: Vec<u8> = named.chain(options.iter().copied()).collect();
        if data.len() > MAX_INLINE_BYTES as usize {
            return Err(ClError::OUT_OF_RESOURCES);
        }
        let mut build = lock(&self.build);
        // CL_INVALID_OPERATION if the build of a program executable for any of the devices listed in device_list by a
        // previous call to clBuildProgram for program has not completed.
        // CL_INVALID_OPERATION if there are kernel objects attached to program.
        if build.is_running || self.kernels.load(Ordering::Relaxed) > 0 {
            return Err(ClError::INVALID_OPERATION);
        }
        self.post_includes(&mut build, options)?;
        let slot = self.connection().slot()?;
        let body = BuildProgram {
            program: self.id.into(),
            device_count: (devices.len() as u32).into(),
            reply: slot.to_ref(),
        };
        self.connection().send(&body, &[], &data)?;
        build.is_running = true;
        build.has_executable = false;
        let options = String::from_utf8_lossy(options);
        for reference in all {
            build.options.insert(reference, options.clone().into_owned());
        }
        Ok(slot)
    }

    /// Gives the host the text with the files that it includes with these options, if it has another one. It takes the
    /// program's place: nothing was made of it, or the build would have been refused.
    fn post_includes(&self, build: &mut Build, options: &[u8]) -> ClResult<()> {
        let expanded = includes::expand(&self.source, options);
        if expanded != build.expanded {
            self.connection().send(&Release { id: self.id.into(), reserved: U32::ZERO }, &[], &[])?;
            let create = context::create(self.id, self.context.id());
            post_source(self.connection(), create, expanded.as_ref().unwrap_or(&self.source))?;
            build.expanded = expanded;
        }
        Ok(())
    }

    fn end_build(&self, slot: &Slot) -> ClResult<()> {
        let outcome = self.connection().wait(slot).ok();
        let mut build = lock(&self.build);
        build.is_running = false;
        build.has_executable = outcome.is_ok();
        outcome.map(|_| ())
    }

    /// The options of the build that a device uses: its own, or else that of the device which it is a part of.
    fn options_for<'a>(&self, build: &'a Build, device: &Object<Device>) -> Option<&'a String> {
        let own = self.context.reference(device).ok().and_then(|reference| build.options.get(&reference));
        own.or_else(|| self.options_for(build, device.parent()?))
    }

    /// `clGetProgramBuildInfo`.
    pub(crate) fn build_info(&self, device: &Object<Device>, param: u32) -> ClResult<Info> {
        let index = self.context.reference(device)?;
        let build = lock(&self.build);
        let options = self.options_for(&build, device);
        let ask = |or: Info| match options {
            Some(_) if !build.is_running => {
                let question = Question { kind: InfoKind::ProgramBuild, object: self.id, param, index };
                question.ask(self.connection()).map(Info::from)
            }
            _ => Ok(or),
        };
        match param {
            CL_PROGRAM_BUILD_STATUS if options.is_some() && build.is_running => {
                Ok(Info::value(CL_BUILD_IN_PROGRESS))
            }
            CL_PROGRAM_BUILD_STATUS => ask(Info::value(CL_BUILD_NONE)),
            CL_PROGRAM_BUILD_OPTIONS => Ok(Info::text(options.map_or("", |options| options))),
            CL_PROGRAM_BUILD_LOG => ask(Info::text("")),
            CL_PROGRAM_BINARY_TYPE => ask(Info::value(CL_PROGRAM_BINARY_TYPE_NONE)),
            CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE => ask(Info::value(0usize)),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => Err(ClError::INVALID_VALUE),
        }
    }

    /// The binary of each device of the context; empty where there is none.
    fn binaries(&self) -> Vec<Vec<u8>> {
        let build = lock(&self.build);
        let text = build.expanded.as_ref().unwrap_or(&self.source);
        let options =
            |device: &Arc<Object<Device>>| self.options_for(&build, device).filter(|_| build.has_executable);
        let binary =
            |options: &String| Binary { text: text.clone(), options: options.clone().into_bytes() }.write();
        self.context.devices().iter().map(|device| options(device).map(binary).unwrap_or_default()).collect()
    }

    fn ask(&self, param: u32) -> ClResult<Vec<u8>> {
        let question = Question { kind: InfoKind::Program, object: self.id, param, index: 0 };
        self.when_built(|| question.ask(self.connection()))
    }

    /// The names of the program's kernels.
    pub(crate) fn kernel_names(&self) -> ClResult<Vec<String>> {
        let names = info::text(&self.ask(CL_PROGRAM_KERNEL_NAMES)?);
        Ok(names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }
}

impl Object<Program> {
    /// `clBuildProgram`. With a callback, returns once the build is posted.
    pub(crate) fn build(
        &self,
        devices: &[Arc<Object<Device>>],
        options: &[u8],
        notify: Option<Callback<HandleFn>>,
    ) -> ClResult<()> {
        let slot = self.start_build(devices, options)?;
        let Some(notify) = notify else {
            return self.end_build(&slot);
        };
        let program = self.arc();
        let finish = Arc::new(move || {
            // The application asks for the outcome itself.
            let _outcome = program.end_build(&slot);
            notify.call(program.handle());
        });
        let in_thread = finish.clone();
        let thread = std::thread::Builder::new().name("paragpu-build".into());
        if let Err(error) = thread.spawn(move || in_thread()) {
            // It is posted, and the program is of no use before it is ended: "clBuildProgram does not need to wait", but it
            // may.
            crate::debug::debug!("no thread for a build: {error}");
            finish();
        }
        Ok(())
    }

    /// A share in the program for a kernel that was just created; called while the program is in use.
    pub(crate) fn share(&self) -> KernelShare {
        self.kernels.fetch_add(1, Ordering::Relaxed);
        KernelShare(self.arc())
    }

    /// `clGetProgramInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        let devices = self.context.devices();
        Ok(match param {
            CL_PROGRAM_REFERENCE_COUNT => Info::value(self.reference_count()),
            CL_PROGRAM_CONTEXT => Info::handle(self.context.handle()),
            CL_PROGRAM_NUM_DEVICES => Info::value(devices.len() as u32),
            CL_PROGRAM_DEVICES => Info::handles(device::handles(devices).into_iter()),
            CL_PROGRAM_SOURCE => Info::text(&String::from_utf8_lossy(&self.source)),
            CL_PROGRAM_BINARY_SIZES => {
                Info::list(&self.binaries().iter().map(Vec::len).collect::<Vec<usize>>())
            }
            CL_PROGRAM_BINARIES => Info::pointed(self.binaries()),
            // "If program is created with clCreateProgramWithSource ... the param_value_size_ret is 0".
            CL_PROGRAM_IL => Info::default(),
            CL_PROGRAM_NUM_KERNELS
            | CL_PROGRAM_KERNEL_NAMES
            | CL_PROGRAM_SCOPE_GLOBAL_CTORS_PRESENT
            | CL_PROGRAM_SCOPE_GLOBAL_DTORS_PRESENT => self.ask(param)?.into(),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.connection().release(self.id);
    }
}
