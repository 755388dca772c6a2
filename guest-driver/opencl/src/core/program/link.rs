//! `clLinkProgram`.

use std::collections::BTreeMap;
use std::sync::Arc;

use opencl_sys::{
    CL_BUILD_ERROR, CL_BUILD_IN_PROGRESS, CL_BUILD_NONE, CL_BUILD_SUCCESS,
    CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT, CL_PROGRAM_BINARY_TYPE_LIBRARY,
};

use super::host::HostProgram;
use super::realize::{Failure, Realizer};
use super::{BuildRequest, Built, Origin, Program, State, references};
use crate::boundary::object::Object;
use crate::core::background;
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::recipe::Recipe;

/// A link that has begun.
struct Begun {
    /// The devices for which there is something to link.
    devices: Vec<u32>,
    options: Option<Vec<u8>>,
    inputs: Vec<Input>,
}

/// What came of it.
struct Linked {
    host: HostProgram,
    outcome: ClResult<()>,
    /// What devices have if that is a success.
    recipes: BTreeMap<u32, Arc<Recipe>>,
}

/// What is linked.
struct Input {
    program: Arc<Object<Program>>,
    /// The host's; none while there is only a recipe for it.
    host: Option<Arc<HostProgram>>,
    /// What devices have of it, by the host's names for them.
    recipes: BTreeMap<u32, Arc<Recipe>>,
}

impl Input {
    /// A program as it is now: the host will not change it any more.
    fn new(program: Arc<Object<Program>>) -> ClResult<Input> {
        let mut state = program.state();
        // CL_INVALID_OPERATION if the compilation or build of a program executable for any of the devices listed in
        // device_list by a previous call to clCompileProgram or clBuildProgram for program has not completed.
        refuse_if(state.is_running, ClError::INVALID_OPERATION)?;
        // What was built of a binary is another program than what the binary holds, if that is to be linked.
        let is_binary = matches!(program.origin, Origin::Binary);
        let host = state.host.clone().filter(|_| !is_binary || state.is_frozen);
        let linkable = state.built.iter().filter_map(|(device, built)| {
            let is_there = built.status == CL_BUILD_SUCCESS || (is_binary && built.status == CL_BUILD_NONE);
            let recipe = built.recipe.as_ref().filter(|_| is_there)?;
            is_linkable(recipe).then(|| (*device, recipe.clone()))
        });
        let recipes = linkable.collect();
        state.is_frozen |= host.is_some();
        drop(state);
        Ok(Input { program, host, recipes })
    }

    /// The host's program.
    fn realize(&self, context: &Object<Context>) -> Result<Arc<HostProgram>, Failure> {
        if let Some(host) = &self.host {
            return Ok(host.clone());
        }
        let recipes: Vec<_> = self.recipes.iter().map(|(device, recipe)| (*device, recipe.clone())).collect();
        let host = Realizer::new(context).make(&recipes)?;
        // For the next link of it.
        let mut state = self.program.state();
        if !state.is_running && state.host.is_none() {
            state.host = Some(host.clone());
            state.is_frozen = true;
        }
        Ok(host)
    }
}

fn is_linkable(recipe: &Recipe) -> bool {
    matches!(recipe.binary_type(), CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT | CL_PROGRAM_BINARY_TYPE_LIBRARY)
}

/// The devices for which all programs have something to link.
fn linked_devices(devices: Vec<u32>, inputs: &[Input]) -> ClResult<Vec<u32>> {
    let mut linked = Vec::new();
    for device in devices {
        let have = inputs.iter().filter(|input| input.recipes.contains_key(&device)).count();
        // CL_INVALID_OPERATION if the rules for devices containing compiled binaries or libraries as described in
        // input_programs argument are not followed: for a device, all programs have one, or none has.
        refuse_if(have != 0 && have != inputs.len(), ClError::INVALID_OPERATION)?;
        if have != 0 {
            linked.push(device);
        }
    }
    // Where no device has anything, there is nothing to link.
    refuse_if(linked.is_empty(), ClError::INVALID_OPERATION)?;
    Ok(linked)
}

impl Program {
    /// `clLinkProgram`. With a callback, returns once the link has begun; without, the program may come with an error.
    pub(crate) fn link(
        context: &Object<Context>,
        request: BuildRequest<'_>,
        inputs: Vec<Arc<Object<Program>>>,
    ) -> ClResult<(Arc<Object<Program>>, ClResult<()>)> {
        let devices = if request.devices.is_empty() { context.devices() } else { request.devices };
        let inputs = inputs.into_iter().map(Input::new).collect::<ClResult<Vec<_>>>()?;
        let linked = linked_devices(references(context, devices)?, &inputs)?;
        let begun = Begun { devices: linked, options: request.options, inputs };
        let running = |device: &u32| {
            let (status, options) = (CL_BUILD_IN_PROGRESS, begun.options.clone());
            (*device, Built { status, options, recipe: None, log: None })
        };
        let built = begun.devices.iter().map(running).collect();
        let state = State { built, is_running: true, ..State::default() };
        let program = Program::new(context, devices.to_vec(), Origin::Linked, state);
        let Some(notify) = request.notify else {
            return match program.end_link(begun) {
                // "If the linking operation can begin, clLinkProgram returns a valid program object."
                Err(ClError::LINK_PROGRAM_FAILURE) => Ok((program, Err(ClError::LINK_PROGRAM_FAILURE))),
                outcome => outcome.map(|()| (program, Ok(()))),
            };
        };
        let in_background = program.clone();
        background::run("paragpu-link", move || {
            // The application asks for the outcome itself.
            let _outcome = in_background.end_link(begun);
            notify.call(in_background.handle());
        });
        Ok((program, Ok(())))
    }

    /// Links, and notes what became of it.
    fn end_link(&self, begun: Begun) -> ClResult<()> {
        let made = self.make_link(&begun);
        let mut state = self.state();
        state.is_running = false;
        let (outcome, log, recipes) = match made {
            Ok(Linked { host, outcome, recipes }) => {
                state.host = Some(Arc::new(host));
                (outcome, None, recipes)
            }
            Err(failure) => (Err(failure.error), failure.log, BTreeMap::new()),
        };
        for device in &begun.devices {
            let status = if outcome.is_ok() { CL_BUILD_SUCCESS } else { CL_BUILD_ERROR };
            let recipe = recipes.get(device).cloned().filter(|_| outcome.is_ok());
            let options = begun.options.clone();
            state.built.insert(*device, Built { status, options, recipe, log: log.clone() });
        }
        outcome
    }

    fn make_link(&self, begun: &Begun) -> Result<Linked, Failure> {
        let options = begun.options.as_deref().unwrap_or_default();
        let recipe = |device: &u32| {
            let inputs = begun.inputs.iter().map(|input| input.recipes.get(device).cloned());
            let linked = Recipe::linked(inputs.collect::<Option<_>>()?, options.to_vec())?;
            Some((*device, Arc::new(linked)))
        };
        let recipes: Option<BTreeMap<_, _>> = begun.devices.iter().map(recipe).collect();
        // More links behind each other than the host takes.
        let recipes = recipes.ok_or(ClError::OUT_OF_RESOURCES)?;
        let inputs = begun.inputs.iter().map(|input| input.realize(&self.context));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let (host, making) = HostProgram::linked(&self.context, &begun.devices, options, &inputs)?;
        let outcome = making.wait();
        Ok(Linked { host, outcome, recipes })
    }
}
