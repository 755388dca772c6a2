//! What a kernel's arguments are, read from the SPIR-V module that it comes from.
//!
//! A driver need not say what the arguments of such kernels are, and where it does, it repeats what the module says of
//! itself in strings. A guest wrote those: it could call a handle a number, and have the driver take bytes of its choice
//! for a pointer. So the types are followed here. A module in which something that counts is there twice is refused,
//! since the driver may take the other one.

use std::collections::HashMap;

use paragpu_protocol::kernel::{ACCESS_READ, ACCESS_WRITE, ArgKind};
use paragpu_protocol::limits::MAX_KERNEL_ARGS;
use paragpu_protocol::spirv::{Instruction, Module, OP_DECORATE, OP_TYPE_FLOAT, OP_TYPE_INT};

use super::backend::Arg;

const OP_EXT_INST: u16 = 12;
const OP_ENTRY_POINT: u16 = 15;
const OP_TYPE_VECTOR: u16 = 23;
const OP_TYPE_MATRIX: u16 = 24;
const OP_TYPE_IMAGE: u16 = 25;
const OP_TYPE_SAMPLER: u16 = 26;
const OP_TYPE_ARRAY: u16 = 28;
const OP_TYPE_STRUCT: u16 = 30;
const OP_TYPE_POINTER: u16 = 32;
const OP_TYPE_FUNCTION: u16 = 33;
const OP_TYPE_QUEUE: u16 = 37;
const OP_TYPE_PIPE: u16 = 38;
const OP_FUNCTION: u16 = 54;
const OP_FUNCTION_PARAMETER: u16 = 55;

const MODEL_KERNEL: u32 = 6;

const CLASS_UNIFORM_CONSTANT: u32 = 0;
const CLASS_WORKGROUP: u32 = 4;
const CLASS_CROSS_WORKGROUP: u32 = 5;
const CLASS_FUNCTION: u32 = 7;

const DECORATION_FUNC_PARAM_ATTR: u32 = 38;
const ATTRIBUTE_BY_VALUE: u32 = 2;

/// `printf` of `OpenCL.std`.
const PRINTF: u32 = 184;

/// Why a kernel's arguments are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unknown {
    /// The module has no kernel of that name.
    #[error("no such kernel")]
    NoSuchKernel,
    /// The module contradicts itself, leaves something out, or has too much of it.
    #[error("the SPIR-V module does not say what the kernel's arguments are")]
    Unclear,
}

/// The arguments of the kernel of this name.
pub(crate) fn kernel_args(module: &[u8], name: &[u8]) -> Result<Vec<Arg>, Unknown> {
    let module = Module::parse(module).ok_or(Unknown::Unclear)?;
    let mut points = module.instructions().filter(|it| is_entry_point(it, name));
    let function = points.next().ok_or(Unknown::NoSuchKernel)?.operand(1).ok_or(Unknown::Unclear)?;
    if points.next().is_some() {
        return Err(Unknown::Unclear);
    }
    let (function_type, parameters) = function_of(&module, function)?;
    let types = parameter_types(&module, function_type)?;
    if types.len() != parameters.len() {
        return Err(Unknown::Unclear);
    }
    let definitions = definitions(&module, &types)?;
    let elements: Vec<u32> = definitions.values().filter_map(|it| it.element()).collect();
    let elements = self::definitions(&module, &elements)?;
    let by_value = by_value(&module, &parameters);
    let arg = |(of, parameter): (&u32, &u32)| {
        let definition = definitions.get(of).ok_or(Unknown::Unclear)?;
        Ok(definition.arg(&elements, by_value.contains(parameter)))
    };
    types.iter().zip(&parameters).map(arg).collect()
}

/// True if the module's kernels may print.
pub(crate) fn may_print(module: &[u8]) -> bool {
    // Result type, result, set, instruction: that of another set with this number does no harm.
    let is_printf = |it: Instruction<'_>| it.opcode == OP_EXT_INST && it.operand(3) == Some(PRINTF);
    Module::parse(module).is_some_and(|module| module.instructions().any(is_printf))
}

/// `OpEntryPoint`: model, function, name, interface.
fn is_entry_point(it: &Instruction<'_>, name: &[u8]) -> bool {
    let Some(literal) = it.operands.get(2..) else { return false };
    if it.opcode != OP_ENTRY_POINT || it.operand(0) != Some(MODEL_KERNEL) {
        return false;
    }
    let mut bytes = literal.iter().flat_map(|word| word.get().to_le_bytes());
    name.iter().all(|byte| bytes.next() == Some(*byte)) && bytes.next() == Some(0)
}

/// A function's type and its parameters: `OpFunction` has the result type, the result, the control and the type.
fn function_of(module: &Module<'_>, function: u32) -> Result<(u32, Vec<u32>), Unknown> {
    let is_it = |it: &Instruction<'_>| it.opcode == OP_FUNCTION && it.operand(1) == Some(function);
    if module.instructions().filter(is_it).count() != 1 {
        return Err(Unknown::Unclear);
    }
    let mut from = module.instructions().skip_while(|it| !is_it(it));
    let of = from.next().and_then(|it| it.operand(3)).ok_or(Unknown::Unclear)?;
    // Lines of debug information may come between.
    let body = from.take_while(|it| it.opcode != OP_FUNCTION);
    let parameters = body.filter(|it| it.opcode == OP_FUNCTION_PARAMETER).map(|it| it.operand(1));
    let parameters = parameters.take(MAX_KERNEL_ARGS as usize + 1).collect::<Option<Vec<_>>>();
    let parameters =
        parameters.filter(|all| all.len() <= MAX_KERNEL_ARGS as usize).ok_or(Unknown::Unclear)?;
    Ok((of, parameters))
}

/// The types of a function's parameters: `OpTypeFunction` has the result, the return type, and these.
fn parameter_types(module: &Module<'_>, function_type: u32) -> Result<Vec<u32>, Unknown> {
    let mut types = module.instructions().filter(|it| makes_type(it) == Some(function_type));
    let it = types.next().filter(|it| it.opcode == OP_TYPE_FUNCTION).ok_or(Unknown::Unclear)?;
    if types.next().is_some() {
        return Err(Unknown::Unclear);
    }
    let parameters = it.operands.get(2..).filter(|all| all.len() <= MAX_KERNEL_ARGS as usize);
    Ok(parameters.ok_or(Unknown::Unclear)?.iter().map(|id| id.get()).collect())
}

/// The type that an instruction makes.
fn makes_type(it: &Instruction<'_>) -> Option<u32> {
    match it.opcode {
        // OpTypeVoid to OpTypePipe, OpTypePipeStorage, OpTypeNamedBarrier.
        19..=38 | 322 | 327 => it.operand(0),
        // Those of extensions.
        4163
        | 4190
        | 4417
        | 4456
        | 4472
        | 5076
        | 5115
        | 5281
        | 5288
        | 5313
        | 5341
        | 5358
        | 5370
        | 5371
        | 5700..=5712
        | 6086
        | 6199 => it.operand(0),
        _ => None,
    }
}

/// A type, as far as it counts for an argument.
#[derive(Clone, Copy, Debug)]
enum Type {
    /// A number of that many bytes.
    Scalar(u32),
    Vector {
        of: u32,
        count: u32,
    },
    /// A structure, array or matrix.
    Aggregate,
    Pointer {
        class: u32,
    },
    /// What a kernel does with it: `ACCESS_READ`, `ACCESS_WRITE`.
    Image(u8),
    Sampler,
    /// As an image.
    Pipe(u8),
    Queue,
    Other,
}

impl Type {
    fn of(it: &Instruction<'_>) -> Type {
        let operand = |index| it.operand(index).unwrap_or(0);
        match it.opcode {
            OP_TYPE_INT | OP_TYPE_FLOAT => Type::Scalar(operand(1) / 8),
            OP_TYPE_VECTOR => Type::Vector { of: operand(1), count: operand(2) },
            OP_TYPE_MATRIX | OP_TYPE_ARRAY | OP_TYPE_STRUCT => Type::Aggregate,
            OP_TYPE_POINTER => Type::Pointer { class: operand(1) },
            // Result, sampled type, dimension, depth, arrayed, multisampled, sampled, format, and perhaps the access.
            OP_TYPE_IMAGE => Type::Image(access(it.operand(8))),
            OP_TYPE_SAMPLER => Type::Sampler,
            // Result, access.
            OP_TYPE_PIPE => Type::Pipe(access(it.operand(1))),
            OP_TYPE_QUEUE => Type::Queue,
            _ => Type::Other,
        }
    }

    fn element(self) -> Option<u32> {
        match self {
            Type::Vector { of, .. } => Some(of),
            _ => None,
        }
    }

    fn arg(self, elements: &HashMap<u32, Type>, by_value: bool) -> Arg {
        let arg = |kind| Arg { kind, size: 0, access: 0 };
        let value = |size| Arg { kind: ArgKind::Value, size, access: 0 };
        match self {
            Type::Scalar(size) => value(size),
            Type::Vector { of, count } => match elements.get(&of) {
                // Three components take the room of four.
                Some(Type::Scalar(size)) => value(size.saturating_mul(if count == 3 { 4 } else { count })),
                _ => arg(ArgKind::Other),
            },
            Type::Aggregate => arg(ArgKind::Value),
            Type::Pointer { class: CLASS_CROSS_WORKGROUP | CLASS_UNIFORM_CONSTANT } => arg(ArgKind::Buffer),
            Type::Pointer { class: CLASS_WORKGROUP } => arg(ArgKind::Local),
            // How structures are passed.
            Type::Pointer { class: CLASS_FUNCTION } if by_value => arg(ArgKind::Value),
            Type::Pointer { .. } | Type::Other => arg(ArgKind::Other),
            Type::Image(access) => Arg { access, ..arg(ArgKind::Image) },
            Type::Sampler => arg(ArgKind::Sampler),
            Type::Pipe(access) => Arg { access, ..arg(ArgKind::Pipe) },
            Type::Queue => arg(ArgKind::Queue),
        }
    }
}

/// `ACCESS_READ`, `ACCESS_WRITE`, of an access qualifier.
fn access(qualifier: Option<u32>) -> u8 {
    match qualifier {
        Some(0) => ACCESS_READ,
        Some(1) => ACCESS_WRITE,
        Some(2) => ACCESS_READ | ACCESS_WRITE,
        _ => 0,
    }
}

/// The types with these ids. One that is missing is left out; one that is there twice makes the module unclear.
fn definitions(module: &Module<'_>, wanted: &[u32]) -> Result<HashMap<u32, Type>, Unknown> {
    let mut found: HashMap<u32, Option<Type>> = wanted.iter().map(|id| (*id, None)).collect();
    for it in module.instructions() {
        let Some(id) = makes_type(&it) else { continue };
        if let Some(entry) = found.get_mut(&id)
            && entry.replace(Type::of(&it)).is_some()
        {
            return Err(Unknown::Unclear);
        }
    }
    Ok(found.into_iter().filter_map(|(id, definition)| Some((id, definition?))).collect())
}

/// The parameters that point to what is passed by value.
fn by_value(module: &Module<'_>, parameters: &[u32]) -> Vec<u32> {
    let decorated = module.instructions().filter(|it| {
        it.opcode == OP_DECORATE
            && it.operand(1) == Some(DECORATION_FUNC_PARAM_ATTR)
            && it.operand(2) == Some(ATTRIBUTE_BY_VALUE)
    });
    let mut all: Vec<u32> =
        decorated.filter_map(|it| it.operand(0)).filter(|id| parameters.contains(id)).collect();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use paragpu_protocol::spirv::MAGIC;
    use proptest::prelude::{any, prop};

    fn module(instructions: &[Vec<u32>]) -> Vec<u8> {
        let mut words = vec![MAGIC, 0x1_0000, 0, 100, 0];
        for instruction in instructions {
            words.push(instruction[0] | (instruction.len() as u32) << 16);
            words.extend(&instruction[1..]);
        }
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    fn op(opcode: u16, operands: &[u32]) -> Vec<u32> {
        [&[opcode.into()], operands].concat()
    }

    fn entry_point(function: u32, name: [u8; 4]) -> Vec<u32> {
        op(OP_ENTRY_POINT, &[MODEL_KERNEL, function, u32::from_le_bytes(name)])
    }

    /// A kernel `abc` (function 50) with one parameter for each type.
    fn kernel(types: &[u32]) -> Vec<Vec<u32>> {
        let mut instructions = vec![
            entry_point(50, *b"abc\0"),
            entry_point(51, *b"abd\0"),
            op(OP_DECORATE, &[60, DECORATION_FUNC_PARAM_ATTR, ATTRIBUTE_BY_VALUE]),
            op(OP_TYPE_INT, &[1, 32, 0]),
            op(OP_TYPE_FLOAT, &[2, 64]),
            op(OP_TYPE_VECTOR, &[3, 1, 3]),
            op(OP_TYPE_STRUCT, &[4, 1, 2]),
            op(OP_TYPE_POINTER, &[5, CLASS_CROSS_WORKGROUP, 1]),
            op(OP_TYPE_POINTER, &[6, CLASS_WORKGROUP, 1]),
            op(OP_TYPE_POINTER, &[7, CLASS_FUNCTION, 4]),
            op(OP_TYPE_POINTER, &[8, CLASS_UNIFORM_CONSTANT, 1]),
            op(OP_TYPE_SAMPLER, &[9]),
            op(OP_TYPE_IMAGE, &[10, 1, 0, 0, 0, 0, 0, 0]),
            op(OP_TYPE_PIPE, &[11, 1]),
            op(OP_TYPE_VECTOR, &[12, 9, 2]),
            op(OP_TYPE_QUEUE, &[13]),
            op(35, &[14]), // OpTypeDeviceEvent
            op(OP_TYPE_FUNCTION, &[&[40, 1], types].concat()),
            op(OP_FUNCTION, &[1, 50, 0, 40]),
        ];
        for (index, of) in types.iter().enumerate() {
            instructions.push(op(OP_FUNCTION_PARAMETER, &[*of, 60 + index as u32]));
        }
        instructions.push(op(OP_FUNCTION, &[1, 51, 0, 40]));
        instructions
    }

    fn kinds(types: &[u32]) -> Vec<(ArgKind, u32)> {
        let args = kernel_args(&module(&kernel(types)), b"abc").unwrap();
        args.into_iter().map(|arg| (arg.kind, arg.size)).collect()
    }

    #[test]
    fn arguments_are_what_their_types_say() {
        let value = |size| (ArgKind::Value, size);
        assert_eq!(kinds(&[1, 2, 3, 4]), [value(4), value(8), value(16), value(0)]);
        assert_eq!(kinds(&[5, 8, 6]), [(ArgKind::Buffer, 0), (ArgKind::Buffer, 0), (ArgKind::Local, 0)]);
        assert_eq!(kinds(&[9, 10]), [(ArgKind::Sampler, 0), (ArgKind::Image, 0)]);
        assert_eq!(kinds(&[11, 13]), [(ArgKind::Pipe, 0), (ArgKind::Queue, 0)]);
        assert_eq!(
            kinds(&[14, 12]),
            [(ArgKind::Other, 0); 2],
            "a device event, and two samplers as a vector"
        );
        assert_eq!(kinds(&[]), []);
        // The first parameter is said to be by value, the second is not.
        assert_eq!(kinds(&[7, 7]), [value(0), (ArgKind::Other, 0)]);
    }

    #[test]
    fn a_kernel_that_is_not_there_or_not_clear_is_none() {
        let args = |instructions: &[Vec<u32>], name: &[u8]| kernel_args(&module(instructions), name);
        let whole = kernel(&[1]);
        for name in [&b"ab"[..], b"abcd", b"", b"xyz"] {
            assert_eq!(args(&whole, name), Err(Unknown::NoSuchKernel), "{name:?}");
        }
        // Anything that counts, a second time: with another meaning, or another place.
        for again in [
            entry_point(51, *b"abc\0"),
            op(OP_TYPE_SAMPLER, &[1]),
            op(4472, &[1]),
            op(OP_TYPE_FUNCTION, &[40, 1, 9]),
            op(OP_FUNCTION, &[1, 50, 0, 40]),
            op(OP_FUNCTION_PARAMETER, &[1, 70]),
        ] {
            for at in [0, whole.len() - 1] {
                let mut twice = whole.clone();
                twice.insert(at, again.clone());
                let inside = again[0] == u32::from(OP_FUNCTION_PARAMETER) && at == 0;
                assert_eq!(args(&twice, b"abc").is_err(), !inside, "{again:?} at {at}");
            }
        }
        // Anything that counts, left out.
        for index in [3, 17, 18, 19] {
            let mut less = whole.clone();
            less.remove(index);
            assert_eq!(args(&less, b"abc"), Err(Unknown::Unclear), "without {index}");
        }
    }

    #[test]
    fn garbage_is_refused_or_understood_but_never_panics() {
        let whole = module(&kernel(&[1, 3, 5, 7, 9]));
        proptest::proptest!(|(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8))| {
            let mut damaged = whole.clone();
            for (at, byte) in changes {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            let _ = kernel_args(&damaged, b"abc");
        });
        proptest::proptest!(|(bytes in prop::collection::vec(any::<u8>(), 0..256))| {
            assert!(kernel_args(&bytes, b"").is_err());
        });
    }
}
