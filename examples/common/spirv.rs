//! A SPIR-V module, put together word by word: no compiler makes one on the machines where this runs.

// Each example and test uses its part of this file.
#![allow(dead_code)]

/// `SpecId` of the module's specialization constant, a 32-bit number.
pub(crate) const ADDEND_ID: u32 = 7;
/// Its value, if it is not set.
pub(crate) const ADDEND: u32 = 5;

// Results.
const SCALE: u32 = 1;
const WHERE: u32 = 2;
const EXTRA: u32 = 3;
const VOID: u32 = 4;
const UINT: u32 = 5;
const ULONG: u32 = 6;
const THREE: u32 = 7;
const INPUT: u32 = 8;
const GLOBAL: u32 = 9;
const SIGNATURE: u32 = 10;
const X: u32 = 11;
const FACTOR: u32 = 12;
const ENTRY: u32 = 13;
const PLACE: u32 = 14;
const INDEX: u32 = 15;
const ELEMENT: u32 = 16;
const OLD: u32 = 17;
const PRODUCT: u32 = 18;
const SUM: u32 = 19;
const BOUND: u32 = 20;

/// A module with `kernel void scale(global uint *x, uint factor)`, which makes of each element `x`, by global id,
/// `x * factor + ADDEND`.
pub(crate) fn scale_module() -> Vec<u8> {
    let mut module = Module::new(BOUND);
    // OpEntryPoint Kernel, with the name.
    module.op(15, &[&[6, SCALE], &string("scale")[..], &[WHERE]].concat());
    // OpDecorate: BuiltIn GlobalInvocationId, Constant, LinkageAttributes … Import; SpecId.
    module.op(71, &[WHERE, 11, 28]);
    module.op(71, &[WHERE, 22]);
    module.op(71, &[&[WHERE, 41], &string("__spirv_BuiltInGlobalInvocationId")[..], &[1]].concat());
    module.op(71, &[EXTRA, 1, ADDEND_ID]);
    // Types: void, uint, ulong, ulong3, pointers to ulong3 (Input) and uint (CrossWorkgroup), the function's.
    module.op(19, &[VOID]);
    module.op(21, &[UINT, 32, 0]);
    module.op(21, &[ULONG, 64, 0]);
    module.op(23, &[THREE, ULONG, 3]);
    module.op(32, &[INPUT, 1, THREE]);
    module.op(32, &[GLOBAL, 5, UINT]);
    module.op(33, &[SIGNATURE, VOID, GLOBAL, UINT]);
    // OpSpecConstant, OpVariable Input.
    module.op(50, &[UINT, EXTRA, ADDEND]);
    module.op(59, &[INPUT, WHERE, 1]);
    // OpFunction, OpFunctionParameter, OpLabel.
    module.op(54, &[VOID, SCALE, 0, SIGNATURE]);
    module.op(55, &[GLOBAL, X]);
    module.op(55, &[UINT, FACTOR]);
    module.op(248, &[ENTRY]);
    // OpLoad Aligned, OpCompositeExtract, OpInBoundsPtrAccessChain, OpLoad Aligned.
    module.op(61, &[THREE, PLACE, WHERE, 2, 32]);
    module.op(81, &[ULONG, INDEX, PLACE, 0]);
    module.op(70, &[GLOBAL, ELEMENT, X, INDEX]);
    module.op(61, &[UINT, OLD, ELEMENT, 2, 4]);
    // OpIMul, OpIAdd, OpStore Aligned, OpReturn, OpFunctionEnd.
    module.op(132, &[UINT, PRODUCT, OLD, FACTOR]);
    module.op(128, &[UINT, SUM, PRODUCT, EXTRA]);
    module.op(62, &[ELEMENT, SUM, 2, 4]);
    module.op(253, &[]);
    module.op(56, &[]);
    module.bytes()
}

/// A module's words.
pub(crate) struct Module(Vec<u32>);

impl Module {
    /// A module of kernels for 64-bit devices, with results below `bound`.
    pub(crate) fn new(bound: u32) -> Module {
        let mut module = Module(vec![0x0723_0203, 0x0001_0000, 0, bound, 0]);
        // OpCapability Addresses, Kernel, Int64; OpMemoryModel Physical64 OpenCL.
        [4, 6, 11].into_iter().for_each(|capability| module.op(17, &[capability]));
        module.op(14, &[2, 2]);
        module
    }

    /// The module as it is given to OpenCL.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Appends an instruction.
    pub(crate) fn op(&mut self, opcode: u32, operands: &[u32]) {
        self.0.push((operands.len() as u32 + 1) << 16 | opcode);
        self.0.extend(operands);
    }
}

/// A literal string: its bytes and a NUL, filled up to whole words.
pub(crate) fn string(text: &str) -> Vec<u32> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize((text.len() / 4 + 1) * 4, 0);
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}
