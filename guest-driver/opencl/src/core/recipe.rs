//! Recipes: how what a program has become can be made again, on whatever host.
//!
//! A program's binary is its recipe (see [`file`]), not what the host's compiler made of it: that may be native code, which
//! the host would have to trust, and would not survive a move to another host.

mod file;

use std::collections::BTreeMap;
use std::sync::Arc;

use opencl_sys::{
    CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT, CL_PROGRAM_BINARY_TYPE_EXECUTABLE, CL_PROGRAM_BINARY_TYPE_LIBRARY,
};
use paragpu_protocol::limits::MAX_LINK_DEPTH;

use crate::core::options;

/// What a device has of a program after a build, a compilation or a link. Never changes; parts are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recipe {
    /// Code, compiled.
    Compiled(Compiled),
    /// Other recipes' programs, linked.
    Linked(Linked),
}

/// See [`Recipe::Compiled`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compiled {
    pub(super) code: Code,
    pub(super) headers: Vec<Header>,
    pub(super) options: Vec<u8>,
    /// True if it was linked at once, by `clBuildProgram`.
    pub(super) is_executable: bool,
}

/// What a compiler starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// Text, with the guest's files that it includes.
    Source(Arc<Vec<u8>>),
    /// A SPIR-V module, and the specialization constants that were set, by their `SpecId`.
    Il(Arc<Vec<u8>>, BTreeMap<u32, Vec<u8>>),
}

/// A text, and the name by which it is included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) text: Arc<Vec<u8>>,
}

/// See [`Recipe::Linked`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) inputs: Vec<Arc<Recipe>>,
    pub(super) options: Vec<u8>,
    depth: usize,
    has_arg_info: bool,
}

/// The option that makes `clGetKernelArgInfo` answer.
pub(super) const ARG_INFO_OPTION: &str = "-cl-kernel-arg-info";

impl Recipe {
    /// A link; nothing if there are more links behind each other than the host takes.
    pub(super) fn linked(inputs: Vec<Arc<Recipe>>, options: Vec<u8>) -> Option<Recipe> {
        let depth = 1 + inputs.iter().map(|input| input.depth()).max()?;
        let has_arg_info = inputs.iter().any(|input| input.has_arg_info());
        (depth <= MAX_LINK_DEPTH).then_some(Recipe::Linked(Linked { inputs, options, depth, has_arg_info }))
    }

    fn depth(&self) -> usize {
        match self {
            Recipe::Compiled(_) => 0,
            Recipe::Linked(linked) => linked.depth,
        }
    }

    /// `CL_PROGRAM_BINARY_TYPE`.
    pub(super) fn binary_type(&self) -> u32 {
        match self {
            Recipe::Compiled(Compiled { is_executable: true, .. }) => CL_PROGRAM_BINARY_TYPE_EXECUTABLE,
            Recipe::Compiled(_) => CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT,
            Recipe::Linked(linked) if options::have(&linked.options, "-create-library") => {
                CL_PROGRAM_BINARY_TYPE_LIBRARY
            }
            Recipe::Linked(_) => CL_PROGRAM_BINARY_TYPE_EXECUTABLE,
        }
    }

    /// True if the programs of the two recipes are one program of two devices: it is made of the same, and what is linked
    /// is linked with the same options.
    pub(super) fn is_joined_by(&self, other: &Recipe) -> bool {
        match (self, other) {
            (Recipe::Compiled(a), Recipe::Compiled(b)) => {
                a.code == b.code && a.headers == b.headers && a.is_executable == b.is_executable
            }
            (Recipe::Linked(a), Recipe::Linked(b)) => {
                let mut inputs = a.inputs.iter().zip(&b.inputs);
                a.options == b.options
                    && a.inputs.len() == b.inputs.len()
                    && inputs.all(|(a, b)| Arc::ptr_eq(a, b) || a.is_joined_by(b))
            }
            _ => false,
        }
    }

    /// True if any of it was compiled with [`ARG_INFO_OPTION`].
    pub(super) fn has_arg_info(&self) -> bool {
        match self {
            Recipe::Compiled(compiled) => options::have(&compiled.options, ARG_INFO_OPTION),
            Recipe::Linked(linked) => linked.has_arg_info,
        }
    }

    /// True if its kernels may not be launched with work-groups of several sizes: "the program was compiled with
    /// -cl-uniform-work-group-size", or for a language that has no others. Of linked programs the host decides.
    pub(super) fn needs_uniform_groups(&self) -> bool {
        match self {
            Recipe::Compiled(Compiled { options, .. })
                if options::have(options, "-cl-uniform-work-group-size") =>
            {
                true
            }
            Recipe::Compiled(Compiled { code: Code::Source(_), options, .. }) => {
                // "If the -cl-std build option is not specified, the highest OpenCL C 1.x language version supported by
                // each device is used".
                options::value(options, "-cl-std=").is_none_or(|version| version.starts_with("CL1."))
            }
            Recipe::Compiled(_) | Recipe::Linked(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str, options: &str, is_executable: bool) -> Recipe {
        Recipe::Compiled(Compiled {
            code: Code::Source(Arc::new(text.into())),
            headers: Vec::new(),
            options: options.into(),
            is_executable,
        })
    }

    fn linked(inputs: &[&Recipe], options: &str) -> Recipe {
        let inputs = inputs.iter().map(|input| Arc::new((*input).clone())).collect();
        Recipe::linked(inputs, options.into()).unwrap()
    }

    #[test]
    fn the_type_follows_from_how_it_was_made() {
        let object = compiled("a", "", false);
        let types = [
            compiled("a", "-create-library", true).binary_type(),
            object.binary_type(),
            linked(&[&object], "").binary_type(),
            linked(&[&object], "-enable-link-options -create-library").binary_type(),
        ];
        assert_eq!(
            types,
            [
                CL_PROGRAM_BINARY_TYPE_EXECUTABLE,
                CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT,
                CL_PROGRAM_BINARY_TYPE_EXECUTABLE,
                CL_PROGRAM_BINARY_TYPE_LIBRARY
            ]
        );
    }

    #[test]
    fn devices_share_a_program_that_was_compiled_with_other_options_but_not_another_program() {
        let (a, a2, b) = (compiled("a", "-DX", false), compiled("a", "", false), compiled("b", "-DX", false));
        assert!(a.is_joined_by(&a2) && linked(&[&a, &b], "").is_joined_by(&linked(&[&a2, &b], "")));
        assert!(!a.is_joined_by(&b) && !a.is_joined_by(&compiled("a", "-DX", true)));
        assert!(!linked(&[&a], "").is_joined_by(&linked(&[&a], "-g")));
        assert!(!linked(&[&a], "").is_joined_by(&linked(&[&a, &b], "")));
        assert!(!linked(&[&a], "").is_joined_by(&a));
    }

    #[test]
    fn a_chain_of_links_has_an_end() {
        let mut recipe = compiled("a", ARG_INFO_OPTION, false);
        for _ in 0..MAX_LINK_DEPTH {
            recipe = linked(&[&recipe], "");
        }
        assert!(Recipe::linked(vec![Arc::new(recipe.clone())], Vec::new()).is_none());
        assert!(Recipe::linked(Vec::new(), Vec::new()).is_none());
        assert!(recipe.has_arg_info() && !compiled("a", "-w", false).has_arg_info());
    }

    #[test]
    fn groups_are_uniform_where_the_language_or_an_option_says_so() {
        let uniform = |options: &str| compiled("a", options, true).needs_uniform_groups();
        assert!(
            uniform("") && uniform("-cl-std=CL1.2") && uniform("-cl-std=CL3.0 -cl-uniform-work-group-size")
        );
        assert!(!uniform("-cl-std=CL2.0") && !uniform("-w -cl-std=CL3.0"));
    }
}
