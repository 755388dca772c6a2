//! `clBuildProgram` and `clCompileProgram`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use opencl_sys::{CL_BUILD_ERROR, CL_BUILD_IN_PROGRESS, CL_BUILD_SUCCESS};

use super::host::{HostProgram, Making};
use super::realize::{ByDevice, Failure, Realizer};
use super::{Built, Origin, Program, State, references};
use crate::boundary::callback::{Callback, HandleFn};
use crate::boundary::object::Object;
use crate::core::background;
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::includes;
use crate::core::recipe::{Code, Compiled, Header, Recipe};

/// What the application asks for.
#[derive(Debug)]
pub(crate) struct BuildRequest<'a> {
    /// Devices of the program; none for all of them.
    pub(crate) devices: &'a [Arc<Object<Device>>],
    pub(crate) options: Option<Vec<u8>>,
    pub(crate) notify: Option<Callback<HandleFn>>,
}

/// A build that has begun.
struct Begun {
    devices: Vec<u32>,
    options: Option<Vec<u8>>,
    work: Work,
}

/// What is left to be done of it.
enum Work {
    /// The host is at it. A success leaves the devices with the recipe, if there is one.
    Posted(Making, Option<Recipe>),
    /// What the binaries hold is to be made.
    Recipes(ByDevice),
}

impl Program {
    /// The host's names for the devices that a request is for, and those that the host is told: none for all of the
    /// context's.
    fn named(&self, devices: &[Arc<Object<Device>>]) -> ClResult<(Vec<u32>, Vec<u32>)> {
        let is_for_all = devices.is_empty() && self.devices.len() == self.context.devices().len();
        let devices = if devices.is_empty() { &self.devices } else { devices };
        let references = references(&self.context, devices)?;
        let told = if is_for_all { Vec::new() } else { references.clone() };
        Ok((references, told))
    }

    /// Checks that nothing stands against another build.
    fn check_idle(&self, state: &State) -> ClResult<()> {
        // CL_INVALID_OPERATION if the build of a program executable for any of the devices listed in device_list by a
        // previous call to clBuildProgram for program has not completed.
        // CL_INVALID_OPERATION if there are kernel objects attached to program.
        refuse_if(state.is_running || self.kernels.load(Ordering::Relaxed) > 0, ClError::INVALID_OPERATION)
    }

    /// The host's program of the application's code for a build, and that code. If it has one of another text, or one
    /// that it does not change any more, it gets another, of which no device has anything.
    fn prepare(
        &self,
        state: &mut State,
        options: &[u8],
        headers: &[Vec<u8>],
    ) -> ClResult<(Arc<HostProgram>, Code)> {
        match &self.origin {
            Origin::Source(source) => {
                let expanded = includes::expand(source, options, headers).map(Arc::new);
                let text = expanded.clone().unwrap_or_else(|| source.clone());
                if state.is_frozen || expanded != state.expanded {
                    let host = HostProgram::with_source(&self.context, &text)?;
                    state.replace(host);
                    state.expanded = expanded;
                }
                Ok((state.host()?, Code::Source(text)))
            }
            Origin::Il(module) => {
                if state.is_frozen {
                    let host = HostProgram::with_il(&self.context, module, &state.constants)?;
                    state.replace(host);
                }
                Ok((state.host()?, Code::Il(module.clone(), state.constants.clone())))
            }
            // CL_INVALID_OPERATION if program has no source or IL available.
            Origin::BuiltIn | Origin::Binary | Origin::Linked => Err(ClError::INVALID_OPERATION),
        }
    }

    /// The beginning of `clBuildProgram`.
    fn begin_build(&self, devices: &[Arc<Object<Device>>], options: Option<Vec<u8>>) -> ClResult<Begun> {
        let (devices, told) = self.named(devices)?;
        let mut state = self.state();
        self.check_idle(&state)?;
        let given = options.as_deref().unwrap_or_default();
        let work = match &self.origin {
            Origin::Source(_) | Origin::Il(_) => {
                let (host, code) = self.prepare(&mut state, given, &[])?;
                let making = host.build(&told, given)?;
                let compiled =
                    Compiled { code, headers: Vec::new(), options: given.to_vec(), is_executable: true };
                Work::Posted(making, Some(Recipe::Compiled(compiled)))
            }
            Origin::BuiltIn => Work::Posted(state.host()?.build(&told, given)?, None),
            Origin::Binary => {
                let recipe = |device: &u32| Some((*device, state.built.get(device)?.recipe.clone()?));
                // CL_INVALID_BINARY if program is created with clCreateProgramWithBinary and devices listed in
                // device_list do not have a valid program binary loaded.
                let recipes = devices.iter().map(recipe).collect::<Option<_>>();
                Work::Recipes(recipes.ok_or(ClError::INVALID_BINARY)?)
            }
            // CL_INVALID_OPERATION if program was not created with clCreateProgramWithSource, clCreateProgramWithIL or
            // clCreateProgramWithBinary.
            Origin::Linked => return Err(ClError::INVALID_OPERATION),
        };
        Ok(state.begin(devices, options, work))
    }

    /// The beginning of `clCompileProgram`.
    fn begin_compile(
        &self,
        devices: &[Arc<Object<Device>>],
        options: Option<Vec<u8>>,
        headers: &[(Vec<u8>, Arc<Object<Program>>)],
    ) -> ClResult<Begun> {
        let (devices, told) = self.named(devices)?;
        let mut state = self.state();
        self.check_idle(&state)?;
        let given = options.as_deref().unwrap_or_default();
        let names: Vec<Vec<u8>> = headers.iter().map(|(name, _)| name.clone()).collect();
        let (host, code) = self.prepare(&mut state, given, &names)?;
        let header = |(name, program): &(Vec<u8>, Arc<Object<Program>>)| {
            // Headers are programs from source.
            let Origin::Source(source) = &program.origin else { return Err(ClError::INVALID_PROGRAM) };
            let text = includes::expand(source, given, &names).map_or_else(|| source.clone(), Arc::new);
            Ok(Header { name: name.clone(), text })
        };
        let headers = headers.iter().map(header).collect::<ClResult<Vec<_>>>()?;
        let compiled = Compiled { code, headers, options: given.to_vec(), is_executable: false };
        let making = compiled.make(&self.context, &host, &told)?;
        let work = Work::Posted(making, Some(Recipe::Compiled(compiled)));
        Ok(state.begin(devices, options, work))
    }

    /// Does what is left of a build, and notes what became of it.
    fn end(&self, begun: Begun) -> ClResult<()> {
        let Begun { devices, options, work } = begun;
        let made = match work {
            Work::Posted(making, recipe) => {
                let outcome = making.wait();
                let recipe = recipe.map(Arc::new).filter(|_| outcome.is_ok());
                let of = devices.iter().filter_map(|device| Some((*device, recipe.clone()?))).collect();
                outcome.map(|()| (None, of)).map_err(Failure::from)
            }
            Work::Recipes(recipes) => {
                let made = Realizer::new(&self.context).executable(&recipes).map_err(|failure| {
                    // What failed was a part of the build.
                    let error = match failure.error {
                        ClError::COMPILE_PROGRAM_FAILURE | ClError::LINK_PROGRAM_FAILURE => {
                            ClError::BUILD_PROGRAM_FAILURE
                        }
                        error => error,
                    };
                    Failure { error, ..failure }
                });
                made.map(|(host, recipes)| (Some(host), recipes))
            }
        };
        let mut state = self.state();
        state.is_running = false;
        let (host, recipes, outcome, log) = match made {
            Ok((host, recipes)) => (host, recipes, Ok(()), None),
            Err(Failure { error, log }) => (None, Vec::new(), Err(error), log),
        };
        if let Some(host) = host {
            state.host = Some(host);
        }
        let status = if outcome.is_ok() { CL_BUILD_SUCCESS } else { CL_BUILD_ERROR };
        for device in devices {
            // A binary stays what it is, also where it cannot be built.
            let old = state.built.remove(&device).and_then(|built| built.recipe);
            let recipe = match recipes.iter().find(|(of, _)| *of == device) {
                Some((_, recipe)) => Some(recipe.clone()),
                None => old.filter(|_| matches!(self.origin, Origin::Binary)),
            };
            state.built.insert(device, Built { status, options: options.clone(), recipe, log: log.clone() });
        }
        outcome
    }
}

impl State {
    /// The host's program.
    fn host(&self) -> ClResult<Arc<HostProgram>> {
        self.host.clone().ok_or(ClError::INVALID_OPERATION)
    }

    /// Takes another program of the host's in place of the one before, and of all that was made of that.
    fn replace(&mut self, host: HostProgram) {
        self.host = Some(Arc::new(host));
        self.is_frozen = false;
        self.built.clear();
    }

    fn begin(&mut self, devices: Vec<u32>, options: Option<Vec<u8>>, work: Work) -> Begun {
        self.is_running = true;
        for device in &devices {
            let recipe = match work {
                // It is still needed.
                Work::Recipes(_) => self.built.get(device).and_then(|built| built.recipe.clone()),
                Work::Posted(..) => None,
            };
            let (status, options) = (CL_BUILD_IN_PROGRESS, options.clone());
            self.built.insert(*device, Built { status, options, recipe, log: None });
        }
        Begun { devices, options, work }
    }
}

impl Object<Program> {
    /// `clBuildProgram`. With a callback, returns once the build has begun.
    pub(crate) fn build(&self, request: BuildRequest<'_>) -> ClResult<()> {
        let begun = self.begin_build(request.devices, request.options)?;
        self.finish(begun, request.notify)
    }

    /// `clCompileProgram`, with headers by their names.
    pub(crate) fn compile(
        &self,
        request: BuildRequest<'_>,
        headers: &[(Vec<u8>, Arc<Object<Program>>)],
    ) -> ClResult<()> {
        let begun = self.begin_compile(request.devices, request.options, headers)?;
        self.finish(begun, request.notify)
    }

    fn finish(&self, begun: Begun, notify: Option<Callback<HandleFn>>) -> ClResult<()> {
        let Some(notify) = notify else {
            return self.end(begun);
        };
        let program = self.arc();
        background::run("paragpu-build", move || {
            // The application asks for the outcome itself.
            let _outcome = program.end(begun);
            notify.call(program.handle());
        });
        Ok(())
    }
}
