//! A build as plain data: all that another process needs for doing the same.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::backend::{Backend, ClError, Linked};
use super::super::programs::{Origin, ProgramObject};
use super::super::record::{BuildKind, BuildRecord, DeviceRecord};

/// What is to be built, and what it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recipe<'a> {
    /// Which of the host's devices the context has. Their parts are compiled for as they are.
    devices: Vec<usize>,
    /// Programs, each made of earlier ones; the last one's last build is what this is about. If that has no build, it is
    /// about making it.
    #[serde(borrow)]
    programs: Vec<Program<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Program<'a> {
    #[serde(borrow)]
    made_of: MadeOf<'a>,
    builds: Vec<Build>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum MadeOf<'a> {
    Source(#[serde(borrow)] Cow<'a, [u8]>),
    Il(#[serde(borrow)] Cow<'a, [u8]>),
    Linked(Vec<usize>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Build {
    kind: BuildKind,
    /// Empty for all of the context's.
    devices: Vec<usize>,
    options: Vec<u8>,
    headers: Vec<(Vec<u8>, usize)>,
    constants: Vec<(u32, Vec<u8>)>,
}

impl<'a> Recipe<'a> {
    /// The recipe of a program's last build. None if nothing is compiled.
    pub(crate) fn of<B: Backend>(program: &'a Arc<ProgramObject<B>>) -> Option<Recipe<'a>> {
        if matches!(program.origin, Origin::BuiltIn { .. }) {
            return None;
        }
        let mut recipe = Recipe { devices: Vec::new(), programs: Vec::new() };
        for device in &program.context.devices {
            let root = device.root();
            if !recipe.devices.contains(&root) {
                recipe.devices.push(root);
            }
        }
        recipe.add(program, &mut HashMap::new());
        Some(recipe)
    }

    /// One of many, for tests of what is done with them.
    #[cfg(test)]
    pub(super) fn of_number(number: usize) -> Recipe<'static> {
        Recipe { devices: vec![number], programs: Vec::new() }
    }

    /// Adds a program behind those that it is made of. Returns its index. As deep as links may be behind each other.
    fn add<B: Backend>(
        &mut self,
        program: &'a Arc<ProgramObject<B>>,
        seen: &mut HashMap<u64, usize>,
    ) -> usize {
        if let Some(index) = seen.get(&program.common.serial) {
            return *index;
        }
        let made_of = match &program.origin {
            Origin::Source(text) => MadeOf::Source(Cow::Borrowed(text)),
            Origin::Il(module) => MadeOf::Il(Cow::Borrowed(module)),
            Origin::Linked(inputs) => {
                MadeOf::Linked(inputs.iter().map(|input| self.add(input, seen)).collect())
            }
            // Never linked, and no header.
            Origin::BuiltIn { .. } => MadeOf::Linked(Vec::new()),
        };
        let mut builds = Vec::new();
        for (record, headers) in program.builds() {
            let mut named = Vec::new();
            for ((name, _), header) in record.headers.iter().zip(headers) {
                named.push((name.clone(), self.add_header(&header, seen)));
            }
            builds.push(Build::new(record, named));
        }
        self.programs.push(Program { made_of, builds });
        seen.insert(program.common.serial, self.programs.len() - 1);
        self.programs.len() - 1
    }

    /// Adds a program that is source and nothing else.
    fn add_header<B: Backend>(
        &mut self,
        header: &Arc<ProgramObject<B>>,
        seen: &mut HashMap<u64, usize>,
    ) -> usize {
        *seen.entry(header.common.serial).or_insert_with(|| {
            let text = match &header.origin {
                Origin::Source(text) => text.clone(),
                _ => Vec::new(),
            };
            self.programs.push(Program { made_of: MadeOf::Source(text.into()), builds: Vec::new() });
            self.programs.len() - 1
        })
    }

    /// Builds that are to be done again before the one that this is about.
    pub(super) fn earlier_builds(&self) -> usize {
        let all = self.programs.iter().map(|program| match program.made_of {
            MadeOf::Linked(_) => 1,
            _ => program.builds.len(),
        });
        all.sum::<usize>().saturating_sub(1)
    }

    /// Which of the host's devices the context has.
    pub(super) fn devices(&self) -> &[usize] {
        &self.devices
    }

    /// Does what it says. Calls `begun` when everything is made that was made before.
    pub(super) fn carry_out<B: Backend>(
        &self,
        backend: &B,
        context: &B::Context,
        begun: impl FnOnce(),
    ) -> Result<(), ClError> {
        let mut begun = Some(begun);
        let mut made: Vec<B::Program> = Vec::new();
        for (index, program) in self.programs.iter().enumerate() {
            let is_last = index + 1 == self.programs.len();
            // What is left to do is one step.
            let mut begin = |left: usize| {
                if is_last && left <= 1 {
                    begun.take().into_iter().for_each(|begun| begun());
                }
            };
            let host = match &program.made_of {
                MadeOf::Source(text) => backend.create_program(context, text)?,
                MadeOf::Il(module) => {
                    begin(program.builds.len() + 1);
                    backend.create_program_with_il(context, module)?
                }
                MadeOf::Linked(inputs) => {
                    begin(1);
                    let build = program.builds.first().ok_or(ClError::INVALID_VALUE)?;
                    let inputs: Option<Vec<&B::Program>> =
                        inputs.iter().map(|index| made.get(*index)).collect();
                    let inputs = inputs.ok_or(ClError::INVALID_VALUE)?;
                    let devices = devices(backend, &build.devices)?;
                    let Linked { program, outcome } =
                        backend.link(context, &devices, &text(&build.options)?, &inputs);
                    outcome?;
                    program.ok_or(ClError::LINK_PROGRAM_FAILURE)?
                }
            };
            if !matches!(program.made_of, MadeOf::Linked(_)) {
                for (at, build) in program.builds.iter().enumerate() {
                    begin(program.builds.len() - at);
                    build.carry_out(backend, &host, &made)?;
                }
            }
            made.push(host);
        }
        Ok(())
    }
}

impl Build {
    fn new(record: BuildRecord, headers: Vec<(Vec<u8>, usize)>) -> Build {
        let root = |device: &DeviceRecord| match device {
            DeviceRecord::Root(index) => Some(*index),
            DeviceRecord::Sub(_) => None,
        };
        Build {
            kind: record.kind,
            // For a part of a device: what is compiled for all of them will do for it, too.
            devices: record.devices.iter().map(root).collect::<Option<_>>().unwrap_or_default(),
            options: record.host_options(),
            headers,
            constants: record.constants.into_iter().collect(),
        }
    }

    fn carry_out<B: Backend>(
        &self,
        backend: &B,
        host: &B::Program,
        made: &[B::Program],
    ) -> Result<(), ClError> {
        for (id, value) in &self.constants {
            backend.set_spec_constant(host, *id, value)?;
        }
        let (devices, options) = (devices(backend, &self.devices)?, text(&self.options)?);
        if self.kind != BuildKind::Compile {
            return backend.build(host, &devices, &options);
        }
        let names = self.headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>, _>>()?;
        let headers = names
            .iter()
            .zip(&self.headers)
            .map(|(name, (_, index))| Ok((&**name, made.get(*index).ok_or(ClError::INVALID_VALUE)?)));
        let headers = headers.collect::<Result<Vec<(&CStr, &B::Program)>, ClError>>()?;
        backend.compile(host, &devices, &options, &headers)
    }
}

fn text(bytes: &[u8]) -> Result<CString, ClError> {
    CString::new(bytes).map_err(|_nul| ClError::INVALID_VALUE)
}

/// The devices at these indices.
pub(super) fn devices<'b, B: Backend>(
    backend: &'b B,
    indices: &[usize],
) -> Result<Vec<&'b B::Device>, ClError> {
    let found = indices.iter().map(|index| backend.devices().get(*index).map(|device| &device.handle));
    found.collect::<Option<_>>().ok_or(ClError::INVALID_DEVICE)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use paragpu_protocol::command::{
        BuildProgram, CompileProgram, CreateProgram, CreateProgramWithIl, LinkProgram, SetSpecConstant,
    };
    use paragpu_protocol::types::Span;

    use super::{MadeOf, Recipe};
    use crate::executor::child::backend::Backend;
    use crate::executor::child::backend::null::{BAD_SOURCE, Null};
    use crate::executor::child::builds::Builds;
    use crate::executor::child::record::BuildKind;
    use crate::executor::child::rig::{CONTEXT, PROGRAM, Rig, create};
    use crate::executor::child::tests::programs::module;

    const HEADER: u32 = 100;
    const OTHER: u32 = 101;
    const LINKED: u32 = 102;

    /// PROGRAM is compiled with a header, and OTHER without; LINKED is both of them and PROGRAM again.
    fn rig(text: &[u8]) -> Rig {
        let mut rig = Rig::empty(Builds::inline());
        rig.prepare();
        for (id, text) in [(HEADER, &b"header"[..]), (OTHER, text)] {
            let program = CreateProgram { create: create(id, CONTEXT), source: Span::NONE };
            rig.run(&program, &[], text).unwrap();
        }
        let compile = |program: u32| CompileProgram { program: program.into(), ..CompileProgram::default() };
        let with_header = CompileProgram { header_count: 1.into(), ..compile(PROGRAM) };
        let list = [&HEADER.to_le_bytes()[..], &3_u32.to_le_bytes(), b"h.h-DA"].concat();
        rig.run(&with_header, &[], &list).unwrap();
        rig.run(&compile(OTHER), &[], b"").unwrap();
        let body =
            LinkProgram { create: create(LINKED, CONTEXT), input_count: 3.into(), ..LinkProgram::default() };
        let list = [PROGRAM, OTHER, PROGRAM].map(u32::to_le_bytes).concat();
        rig.run(&body, &[], &[&list, &b"-O"[..]].concat()).unwrap();
        rig
    }

    #[test]
    fn a_linked_program_is_made_again_from_its_recipe() {
        let rig = rig(b"other");
        let program = rig.context.objects.program(LINKED).unwrap();
        let recipe = Recipe::of(&program).unwrap();
        let made_of: Vec<_> = recipe.programs.iter().map(|program| &program.made_of).collect();
        let source = |text: &'static [u8]| MadeOf::Source(text.into());
        let linked = MadeOf::Linked(vec![1, 2, 1]);
        assert_eq!(made_of, [&source(b"header"), &source(b"source"), &source(b"other"), &linked]);
        let builds: Vec<_> = recipe.programs.iter().flat_map(|program| &program.builds).collect();
        let kinds = builds.iter().map(|build| (build.kind, &*build.options)).collect::<Vec<_>>();
        let compiled = |options: &'static [u8]| (BuildKind::Compile, options);
        let expected = [
            compiled(b"-DA -cl-kernel-arg-info"),
            compiled(b"-cl-kernel-arg-info"),
            (BuildKind::Link, &b"-O"[..]),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(builds[0].headers, [(b"h.h".to_vec(), 0)]);
        assert_eq!(recipe.earlier_builds(), 2);

        let bytes = postcard::to_stdvec(&recipe).unwrap();
        let copy: Recipe<'_> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(copy, recipe);
        let backend = Null::new(2);
        backend.create_context(&[]).unwrap();
        let begun = Cell::new(0);
        copy.carry_out(&backend, &(), || begun.set(begun.get() + 1)).unwrap();
        assert_eq!(begun.get(), 1);
        // Cut off, or with an index too large: an error.
        for len in 0..bytes.len() {
            assert!(postcard::from_bytes::<Recipe<'_>>(&bytes[..len]).is_err());
        }
        let mut wrong = recipe.clone();
        wrong.programs[3].made_of = MadeOf::Linked(vec![7]);
        assert!(wrong.carry_out(&backend, &(), || {}).is_err());
    }

    #[test]
    fn a_module_is_made_alone_and_built_with_its_constants() {
        let mut rig = Rig::empty(Builds::inline());
        rig.prepare();
        let made = CreateProgramWithIl { create: create(OTHER, CONTEXT), il: Span::NONE };
        rig.run(&made, &[], &module()).unwrap();
        let steps = |rig: &Rig| {
            let program = rig.context.objects.program(OTHER).unwrap();
            let recipe = Recipe::of(&program).unwrap();
            let begun = Cell::new(false);
            recipe.carry_out(&Null::new(2), &(), || begun.set(true)).unwrap();
            assert!(begun.get());
            assert_eq!(recipe.programs[0].made_of, MadeOf::Il(module().into()));
            assert_eq!(recipe.earlier_builds(), 0);
            recipe.programs[0].builds.iter().map(|build| build.constants.clone()).collect::<Vec<_>>()
        };
        assert!(steps(&rig).is_empty());
        let set = SetSpecConstant { program: OTHER.into(), spec_id: 7.into(), ..SetSpecConstant::default() };
        rig.run(&set, &[], &[1, 2, 3, 4]).unwrap();
        rig.run(&BuildProgram { program: OTHER.into(), ..BuildProgram::default() }, &[], b"").unwrap();
        assert_eq!(steps(&rig), [vec![(7, vec![1, 2, 3, 4])]]);
    }

    #[test]
    fn what_has_not_been_built_is_not_built_for_others() {
        let rig = rig(BAD_SOURCE);
        let program = rig.context.objects.program(LINKED).unwrap();
        let recipe = Recipe::of(&program).unwrap();
        assert!(recipe.programs[2].builds.is_empty());
        assert!(recipe.carry_out(&Null::new(2), &(), || {}).is_err(), "nor is it linked");
    }
}
