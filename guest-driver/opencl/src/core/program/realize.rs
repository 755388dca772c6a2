//! From recipes to the host's programs.

use std::collections::HashMap;
use std::sync::Arc;

use super::host::{HostProgram, Making};
use crate::boundary::object::Object;
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult};
use crate::core::recipe::{Code, Compiled, Linked, Recipe};

/// Why something could not be made again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ClError,
    /// The log of what failed, if it has one.
    pub(super) log: Option<Vec<u8>>,
}

impl From<ClError> for Failure {
    fn from(error: ClError) -> Failure {
        Failure { error, log: None }
    }
}

/// What each of some devices has of a program, by their indices. All are of one program: see [`Recipe::is_joined_by`].
pub(super) type ByDevice = Vec<(u32, Arc<Recipe>)>;

/// Makes what recipes say, each once.
pub(super) struct Realizer<'a> {
    context: &'a Object<Context>,
    made: HashMap<Vec<(u32, *const Recipe)>, Arc<HostProgram>>,
}

impl Compiled {
    /// Posts what makes it for devices, of the host's program of its code.
    pub(super) fn make(
        &self,
        context: &Object<Context>,
        host: &HostProgram,
        devices: &[u32],
    ) -> ClResult<Making> {
        if self.is_executable {
            return host.build(devices, &self.options);
        }
        // Of their own: the host compiles no program that is a header, and the application may.
        let header = |header: &crate::core::recipe::Header| HostProgram::with_source(context, &header.text);
        let headers = self.headers.iter().map(header).collect::<ClResult<Vec<_>>>()?;
        let names = self.headers.iter().map(|header| &header.name[..]);
        host.compile(devices, &self.options, &names.zip(headers).collect::<Vec<_>>())
    }
}

impl Realizer<'_> {
    pub(super) fn new(context: &Object<Context>) -> Realizer<'_> {
        Realizer { context, made: HashMap::new() }
    }

    /// Makes an executable, also of what is none: drivers take compiled objects for `clBuildProgram`. Returns the
    /// recipes that the devices have then.
    pub(super) fn executable(
        &mut self,
        recipes: &[(u32, Arc<Recipe>)],
    ) -> Result<(Arc<HostProgram>, ByDevice), Failure> {
        let executable = |(device, recipe): &(u32, Arc<Recipe>)| {
            if recipe.binary_type() == opencl_sys::CL_PROGRAM_BINARY_TYPE_EXECUTABLE {
                return Ok((*device, recipe.clone()));
            }
            let linked = Recipe::linked(vec![recipe.clone()], Vec::new());
            Ok((*device, Arc::new(linked.ok_or(ClError::OUT_OF_RESOURCES)?)))
        };
        let executables = recipes.iter().map(executable).collect::<ClResult<Vec<_>>>()?;
        Ok((self.make(&executables)?, executables))
    }

    /// The host's program of these recipes.
    pub(super) fn make(&mut self, recipes: &[(u32, Arc<Recipe>)]) -> Result<Arc<HostProgram>, Failure> {
        let key: Vec<_> = recipes.iter().map(|(device, recipe)| (*device, Arc::as_ptr(recipe))).collect();
        if let Some(host) = self.made.get(&key) {
            return Ok(host.clone());
        }
        let host = match recipes.first().map(|(_, recipe)| &**recipe) {
            Some(Recipe::Compiled(compiled)) => self.compile(compiled, recipes)?,
            Some(Recipe::Linked(linked)) => self.link(linked, recipes)?,
            None => return Err(ClError::INVALID_BINARY.into()),
        };
        self.made.insert(key, host.clone());
        Ok(host)
    }

    fn compile(&self, first: &Compiled, recipes: &[(u32, Arc<Recipe>)]) -> Result<Arc<HostProgram>, Failure> {
        let host = match &first.code {
            Code::Source(text) => HostProgram::with_source(self.context, text)?,
            Code::Il(module, constants) => HostProgram::with_il(self.context, module, constants)?,
        };
        // Devices may have it compiled with other options.
        let mut rest: Vec<(u32, &Compiled)> = Vec::new();
        for (device, recipe) in recipes {
            match &**recipe {
                Recipe::Compiled(compiled) => rest.push((*device, compiled)),
                Recipe::Linked(_) => return Err(ClError::INVALID_BINARY.into()),
            }
        }
        while let Some((device, compiled)) = rest.first().copied() {
            let (same, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|(_, other)| other.options == compiled.options);
            let devices: Vec<u32> = same.into_iter().map(|(device, _)| device).collect();
            let making = compiled.make(self.context, &host, &devices)?;
            making.wait().map_err(|error| Failure { error, log: host.log(device).ok() })?;
            rest = others;
        }
        Ok(Arc::new(host))
    }

    fn link(&mut self, first: &Linked, recipes: &[(u32, Arc<Recipe>)]) -> Result<Arc<HostProgram>, Failure> {
        let mut inputs = Vec::new();
        for index in 0..first.inputs.len() {
            let input = |(device, recipe): &(u32, Arc<Recipe>)| match &**recipe {
                Recipe::Linked(linked) => Some((*device, linked.inputs.get(index)?.clone())),
                Recipe::Compiled(_) => None,
            };
            let input: Option<Vec<_>> = recipes.iter().map(input).collect();
            inputs.push(self.make(&input.ok_or(ClError::INVALID_BINARY)?)?);
        }
        let devices: Vec<u32> = recipes.iter().map(|(device, _)| *device).collect();
        let (host, making) = HostProgram::linked(self.context, &devices, &first.options, &inputs)?;
        let log = || devices.first().and_then(|device| host.log(*device).ok());
        making.wait().map_err(|error| Failure { error, log: log() })?;
        Ok(Arc::new(host))
    }
}
