//! Programs: what they come from, and what devices have of them.

mod build;
mod host;
mod link;
mod realize;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use opencl_sys::{
    CL_BUILD_ERROR, CL_BUILD_NONE, CL_BUILD_SUCCESS, CL_PROGRAM_BINARIES, CL_PROGRAM_BINARY_SIZES,
    CL_PROGRAM_BINARY_TYPE, CL_PROGRAM_BINARY_TYPE_EXECUTABLE, CL_PROGRAM_BINARY_TYPE_NONE,
    CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE, CL_PROGRAM_BUILD_LOG, CL_PROGRAM_BUILD_OPTIONS,
    CL_PROGRAM_BUILD_STATUS, CL_PROGRAM_CONTEXT, CL_PROGRAM_DEVICES, CL_PROGRAM_IL, CL_PROGRAM_KERNEL_NAMES,
    CL_PROGRAM_NUM_DEVICES, CL_PROGRAM_NUM_KERNELS, CL_PROGRAM_REFERENCE_COUNT,
    CL_PROGRAM_SCOPE_GLOBAL_CTORS_PRESENT, CL_PROGRAM_SCOPE_GLOBAL_DTORS_PRESENT, CL_PROGRAM_SOURCE,
};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::spirv::Module;

use self::host::HostProgram;
use crate::boundary::object::{Kind, Object};
use crate::core::context::Context;
use crate::core::device::{self, Device};
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::{self, Info};
use crate::core::lock;
use crate::core::options;
use crate::core::recipe::{ARG_INFO_OPTION, Recipe};

pub(crate) use self::build::BuildRequest;

/// A program.
#[derive(Debug)]
pub(crate) struct Program {
    context: Arc<Object<Context>>,
    /// Those that the program is for.
    devices: Vec<Arc<Object<Device>>>,
    origin: Origin,
    state: Mutex<State>,
    kernels: AtomicUsize,
}

/// What a program comes from.
#[derive(Debug)]
enum Origin {
    /// The application's text, as it is.
    Source(Arc<Vec<u8>>),
    /// A SPIR-V module.
    Il(Arc<Vec<u8>>),
    /// Kernels that the devices have.
    BuiltIn,
    /// A binary that was given out: see [`Recipe`].
    Binary,
    /// Other programs.
    Linked,
}

/// How far a program is. The host refuses every use of one that it is at, so whatever sends such a use holds this lock
/// meanwhile.
#[derive(Debug, Default)]
struct State {
    /// The host's; none while there is only a recipe for it.
    host: Option<Arc<HostProgram>>,
    /// The text that the host has, where it is another one than the application's: that with included files.
    expanded: Option<Arc<Vec<u8>>>,
    /// True if the host made another program of this one: it will not change it any more.
    is_frozen: bool,
    is_running: bool,
    /// Specialization constants for the next build.
    constants: BTreeMap<u32, Vec<u8>>,
    /// What devices have of the program, by the host's names for them.
    built: BTreeMap<u32, Built>,
}

/// What a device has of a program.
#[derive(Clone, Debug)]
struct Built {
    status: i32,
    /// As the application gave them.
    options: Option<Vec<u8>>,
    /// How it was made; none if it failed, and for built-in kernels.
    recipe: Option<Arc<Recipe>>,
    /// The log, where the host does not have it.
    log: Option<Vec<u8>>,
}

impl Built {
    /// What is loaded from a binary.
    fn loaded(recipe: Arc<Recipe>) -> Built {
        Built { status: CL_BUILD_NONE, options: None, recipe: Some(recipe), log: None }
    }

    fn binary_type(&self) -> u32 {
        self.recipe.as_ref().map_or(CL_PROGRAM_BINARY_TYPE_NONE, |recipe| recipe.binary_type())
    }

    /// "Kernel argument information is only available if … the program executable was built with the -cl-kernel-arg-info
    /// option". What drivers do without any options is theirs; PoCL has it then too.
    fn has_arg_info(&self) -> bool {
        self.options.as_ref().is_none_or(|given| options::have(given, ARG_INFO_OPTION))
            || self.recipe.as_ref().is_some_and(|recipe| recipe.has_arg_info())
    }

    fn is_executable(&self) -> bool {
        self.status == CL_BUILD_SUCCESS && self.binary_type() == CL_PROGRAM_BINARY_TYPE_EXECUTABLE
    }
}

/// What became of each of some binaries, and the program if all are good.
pub(crate) type Loaded = (Vec<ClResult<()>>, Option<Arc<Object<Program>>>);

/// A program that kernels can be made of, for as long as it has any.
#[derive(Clone, Debug)]
pub(crate) struct Executable {
    /// What the host calls it.
    pub(crate) program: u32,
    /// The devices that have it.
    pub(crate) devices: Vec<Arc<Object<Device>>>,
    /// True if the application asked for the information about kernels' arguments.
    pub(crate) has_arg_info: bool,
    /// See [`Recipe::needs_uniform_groups`].
    pub(crate) needs_uniform_groups: bool,
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

/// What the host calls devices of the context's.
fn references(context: &Context, devices: &[Arc<Object<Device>>]) -> ClResult<Vec<u32>> {
    devices.iter().map(|device| context.reference(device)).collect()
}

impl Program {
    fn new(
        context: &Object<Context>,
        devices: Vec<Arc<Object<Device>>>,
        origin: Origin,
        state: State,
    ) -> Arc<Object<Program>> {
        Object::new(Program {
            context: context.arc(),
            devices,
            origin,
            state: state.into(),
            kernels: AtomicUsize::new(0),
        })
    }

    /// `clCreateProgramWithSource`, with the strings put together.
    pub(crate) fn with_source(context: &Object<Context>, source: Vec<u8>) -> ClResult<Arc<Object<Program>>> {
        let state =
            State { host: Some(Arc::new(HostProgram::with_source(context, &source)?)), ..State::default() };
        Ok(Program::new(context, context.devices().to_vec(), Origin::Source(Arc::new(source)), state))
    }

    /// `clCreateProgramWithIL`, for the devices of the context that take any.
    pub(crate) fn with_il(
        context: &Object<Context>,
        devices: Vec<Arc<Object<Device>>>,
        module: &[u8],
    ) -> ClResult<Arc<Object<Program>>> {
        // CL_INVALID_VALUE if the length-byte block of memory pointed to by il does not contain well-formed intermediate
        // language.
        refuse_if(Module::parse(module).is_none(), ClError::INVALID_VALUE)?;
        let host = HostProgram::with_il(context, module, &BTreeMap::new())?;
        let state = State { host: Some(Arc::new(host)), ..State::default() };
        Ok(Program::new(context, devices, Origin::Il(Arc::new(module.to_vec())), state))
    }

    /// `clCreateProgramWithBuiltInKernels`.
    pub(crate) fn with_built_in_kernels(
        context: &Object<Context>,
        devices: Vec<Arc<Object<Device>>>,
        names: &[u8],
    ) -> ClResult<Arc<Object<Program>>> {
        let references = references(context, &devices)?;
        let host = HostProgram::with_built_in_kernels(context, &references, names)?;
        let state = State { host: Some(Arc::new(host)), ..State::default() };
        Ok(Program::new(context, devices, Origin::BuiltIn, state))
    }

    /// `clCreateProgramWithBinary`, with a binary for each device.
    pub(crate) fn with_binaries(
        context: &Object<Context>,
        devices: Vec<Arc<Object<Device>>>,
        binaries: &[Vec<u8>],
    ) -> ClResult<Loaded> {
        let recipes: Vec<_> = binaries.iter().map(|binary| Recipe::read(binary)).collect();
        let first = recipes.iter().flatten().next().cloned();
        // CL_INVALID_BINARY if an invalid program binary was encountered for any device. All that are of one program fit
        // together.
        let fits = |recipe: &Option<Arc<Recipe>>| {
            let pair = recipe.as_ref().zip(first.as_ref());
            pair.is_some_and(|(recipe, first)| Arc::ptr_eq(recipe, first) || recipe.is_joined_by(first))
        };
        let outcomes: Vec<ClResult<()>> =
            recipes.iter().map(|recipe| refuse_if(!fits(recipe), ClError::INVALID_BINARY)).collect();
        if outcomes.iter().any(ClResult::is_err) {
            return Ok((outcomes, None));
        }
        let built = references(context, &devices)?.into_iter().zip(recipes.into_iter().flatten());
        let built = built.map(|(device, recipe)| (device, Built::loaded(recipe))).collect();
        let program = Program::new(context, devices, Origin::Binary, State { built, ..State::default() });
        Ok((outcomes, Some(program)))
    }

    /// The program's context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        &self.context
    }

    /// The devices that the program is for.
    pub(crate) fn devices(&self) -> &[Arc<Object<Device>>] {
        &self.devices
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// True if it comes from intermediate language.
    pub(crate) fn is_il(&self) -> bool {
        matches!(self.origin, Origin::Il(_))
    }

    /// True if its kernels are built-in ones.
    pub(crate) fn is_built_in(&self) -> bool {
        matches!(self.origin, Origin::BuiltIn)
    }

    /// Runs `use_it`, which sends something to the host that needs the built program.
    pub(crate) fn when_built<T>(&self, use_it: impl FnOnce(Executable) -> ClResult<T>) -> ClResult<T> {
        self.usable(|executable, _| use_it(executable))
    }

    fn usable<T>(&self, use_it: impl FnOnce(Executable, &HostProgram) -> ClResult<T>) -> ClResult<T> {
        let state = self.state();
        let is_ready =
            |device: &&Arc<Object<Device>>| self.built(&state, device).is_some_and(Built::is_executable);
        let devices: Vec<_> = self.devices.iter().filter(is_ready).cloned().collect();
        // CL_INVALID_PROGRAM_EXECUTABLE if there is no successfully built executable for program. Of built-in kernels the
        // host says whether they are built.
        let is_there = self.is_built_in() || !devices.is_empty();
        let host = state.host.as_ref().filter(|_| is_there && !state.is_running);
        let host = host.ok_or(ClError::INVALID_PROGRAM_EXECUTABLE)?;
        let built: Vec<&Built> = devices.iter().filter_map(|device| self.built(&state, device)).collect();
        let is_uniform =
            |built: &&Built| built.recipe.as_ref().is_some_and(|recipe| recipe.needs_uniform_groups());
        let executable = Executable {
            program: host.id(),
            has_arg_info: self.is_built_in() || built.iter().any(|built| built.has_arg_info()),
            needs_uniform_groups: built.iter().any(is_uniform),
            devices: if self.is_built_in() { self.devices.clone() } else { devices },
        };
        use_it(executable, host)
    }

    /// `clSetProgramSpecializationConstant`, with a value as long as the application says.
    pub(crate) fn set_constant(&self, id: u32, value: &[u8]) -> ClResult<()> {
        // CL_INVALID_PROGRAM if program is not a valid program object created from an intermediate language.
        let Origin::Il(module) = &self.origin else { return Err(ClError::INVALID_PROGRAM) };
        let size = Module::parse(module).and_then(|module| module.spec_constant_size(id));
        // CL_INVALID_SPEC_ID if spec_id is not a valid specialization constant identifier.
        let size = size.ok_or(ClError::INVALID_SPEC_ID)?;
        // CL_INVALID_VALUE if spec_size does not match the size of the specialization constant in the module.
        refuse_if(size as usize != value.len(), ClError::INVALID_VALUE)?;
        let mut state = self.state();
        // A build that has begun is made with the values before.
        refuse_if(state.is_running, ClError::INVALID_OPERATION)?;
        if let Some(host) = state.host.as_ref().filter(|_| !state.is_frozen) {
            host.set_constant(id, value)?;
        }
        state.constants.insert(id, value.to_vec());
        Ok(())
    }

    /// What a device has: its own, or else what the device has which it is a part of.
    fn built<'a>(&self, state: &'a State, device: &Object<Device>) -> Option<&'a Built> {
        let own = self.context.reference(device).ok().and_then(|reference| state.built.get(&reference));
        own.or_else(|| self.built(state, device.parent()?))
    }

    /// `clGetProgramBuildInfo`, for a device of the program.
    pub(crate) fn build_info(&self, device: &Object<Device>, param: u32) -> ClResult<Info> {
        let reference = self.context.reference(device)?;
        let state = self.state();
        let built = self.built(&state, device);
        let status = built.map_or(CL_BUILD_NONE, |built| built.status);
        Ok(match param {
            CL_PROGRAM_BUILD_STATUS => Info::value(status),
            CL_PROGRAM_BUILD_OPTIONS => {
                Info::c_string(built.and_then(|built| built.options.as_deref()).unwrap_or_default())
            }
            CL_PROGRAM_BINARY_TYPE => {
                Info::value(built.map_or(CL_PROGRAM_BINARY_TYPE_NONE, |built| built.binary_type()))
            }
            CL_PROGRAM_BUILD_LOG => match (built.and_then(|built| built.log.as_ref()), &state.host) {
                (Some(log), _) => Info::from(log.clone()),
                (None, Some(host)) if matches!(status, CL_BUILD_SUCCESS | CL_BUILD_ERROR) => {
                    // A program that could not be linked may not be there to be asked.
                    host.log(reference).map_or_else(|_| Info::text(""), Info::from)
                }
                _ => Info::text(""),
            },
            CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE => match &state.host {
                Some(host) if status == CL_BUILD_SUCCESS => {
                    host.ask(InfoKind::ProgramBuild, param, reference)?.into()
                }
                _ => Info::value(0usize),
            },
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }

    /// The binary of each device of the program; empty where there is none.
    fn binaries(&self) -> Vec<Vec<u8>> {
        let state = self.state();
        let recipe = |device: &Arc<Object<Device>>| self.built(&state, device)?.recipe.clone();
        self.devices.iter().map(|device| recipe(device).map_or(Vec::new(), |recipe| recipe.write())).collect()
    }

    /// Asks the host about the executable.
    fn ask(&self, param: u32) -> ClResult<Vec<u8>> {
        self.usable(|_, host| host.ask(InfoKind::Program, param, 0))
    }

    /// The names of the program's kernels.
    pub(crate) fn kernel_names(&self) -> ClResult<Vec<String>> {
        let names = info::text(&self.ask(CL_PROGRAM_KERNEL_NAMES)?);
        Ok(names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }
}

impl Object<Program> {
    /// A share in the program for a kernel that was just created; called while the program is in use.
    pub(crate) fn share(&self) -> KernelShare {
        self.kernels.fetch_add(1, Ordering::Relaxed);
        KernelShare(self.arc())
    }

    /// `clGetProgramInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        let devices = &self.devices;
        Ok(match param {
            CL_PROGRAM_REFERENCE_COUNT => Info::value(self.reference_count()),
            CL_PROGRAM_CONTEXT => Info::handle(self.context.handle()),
            CL_PROGRAM_NUM_DEVICES => Info::value(devices.len() as u32),
            CL_PROGRAM_DEVICES => Info::handles(device::handles(devices).into_iter()),
            // "If program is created using [anything else], a null string or the appropriate program source code is
            // returned".
            CL_PROGRAM_SOURCE => match &self.origin {
                Origin::Source(source) => Info::c_string(source),
                _ => Info::text(""),
            },
            CL_PROGRAM_BINARY_SIZES => {
                Info::list(&self.binaries().iter().map(Vec::len).collect::<Vec<usize>>())
            }
            CL_PROGRAM_BINARIES => Info::pointed(self.binaries()),
            // "If program is created with clCreateProgramWithSource ... the param_value_size_ret is 0".
            CL_PROGRAM_IL => match &self.origin {
                Origin::Il(module) => Info::from(module.to_vec()),
                _ => Info::default(),
            },
            CL_PROGRAM_NUM_KERNELS
            | CL_PROGRAM_KERNEL_NAMES
            | CL_PROGRAM_SCOPE_GLOBAL_CTORS_PRESENT
            | CL_PROGRAM_SCOPE_GLOBAL_DTORS_PRESENT => self.ask(param)?.into(),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}
