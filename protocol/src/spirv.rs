//! SPIR-V modules, as far as both sides look into them: their shape, and their specialization constants.
//!
//! Numbers are from the SPIR-V specification. A module is a header of five words, then instructions whose first word
//! has their length in words and their opcode.

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// First word of a module whose words are little-endian. Others are not taken.
pub const MAGIC: u32 = 0x0723_0203;

/// `OpDecorate`
pub const OP_DECORATE: u16 = 71;
/// `OpTypeInt`
pub const OP_TYPE_INT: u16 = 21;
/// `OpTypeFloat`
pub const OP_TYPE_FLOAT: u16 = 22;

const OP_SPEC_CONSTANT_TRUE: u16 = 48;
const OP_SPEC_CONSTANT_FALSE: u16 = 49;
const OP_SPEC_CONSTANT: u16 = 50;
const DECORATION_SPEC_ID: u32 = 1;

const HEADER_WORDS: usize = 5;

/// A module whose instructions all lie within it. What they mean is not checked.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    words: &'a [U32],
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub struct Instruction<'a> {
    /// Its opcode.
    pub opcode: u16,
    /// The words after the first.
    pub operands: &'a [U32],
}

impl Instruction<'_> {
    /// An operand as a number.
    pub fn operand(&self, index: usize) -> Option<u32> {
        self.operands.get(index).map(|word| word.get())
    }
}

impl<'a> Module<'a> {
    /// The module in these bytes, if they are one.
    pub fn parse(bytes: &'a [u8]) -> Option<Module<'a>> {
        let words = <[U32]>::ref_from_bytes(bytes).ok()?;
        if words.len() < HEADER_WORDS || words[0].get() != MAGIC {
            return None;
        }
        let module = Module { words };
        let mut rest = &words[HEADER_WORDS..];
        while !rest.is_empty() {
            rest = split(rest)?.1;
        }
        Some(module)
    }

    /// Its instructions.
    pub fn instructions(&self) -> impl Iterator<Item = Instruction<'a>> + use<'a> {
        let mut rest = &self.words[HEADER_WORDS..];
        core::iter::from_fn(move || {
            let (instruction, after) = split(rest)?;
            rest = after;
            Some(instruction)
        })
    }

    /// Size in bytes of the specialization constant with this `SpecId`; nothing if there is none.
    pub fn spec_constant_size(&self, spec_id: u32) -> Option<u32> {
        let is_its_decoration = |it: &Instruction<'_>| {
            it.opcode == OP_DECORATE
                && it.operand(1) == Some(DECORATION_SPEC_ID)
                && it.operand(2) == Some(spec_id)
        };
        let constant = self.instructions().find(is_its_decoration)?.operand(0)?;
        // The result's type, then the result.
        let of_constant = |it: &Instruction<'_>| match it.opcode {
            OP_SPEC_CONSTANT_TRUE | OP_SPEC_CONSTANT_FALSE | OP_SPEC_CONSTANT => {
                it.operand(1) == Some(constant)
            }
            _ => false,
        };
        let made = self.instructions().find(of_constant)?;
        if made.opcode != OP_SPEC_CONSTANT {
            // "the size is sizeof(cl_uchar) for a boolean".
            return Some(1);
        }
        let made_of = made.operand(0)?;
        let is_type = |it: &Instruction<'_>| {
            matches!(it.opcode, OP_TYPE_INT | OP_TYPE_FLOAT) && it.operand(0) == Some(made_of)
        };
        let bits = self.instructions().find(is_type)?.operand(1)?;
        matches!(bits, 8 | 16 | 32 | 64).then_some(bits / 8)
    }
}

/// The first instruction and what is after it; nothing if there is none that is whole.
fn split(words: &[U32]) -> Option<(Instruction<'_>, &[U32])> {
    let first = words.first()?.get();
    let (instruction, rest) = words.split_at_checked((first >> 16) as usize)?;
    let (_, operands) = instruction.split_first()?;
    Some((Instruction { opcode: first as u16, operands }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn module(instructions: &[&[u32]]) -> Vec<u8> {
        let mut words = [MAGIC, 0x1_0000, 0, 100, 0].to_vec();
        for instruction in instructions {
            words.push(instruction[0] | (instruction.len() as u32) << 16);
            words.extend(&instruction[1..]);
        }
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn what_is_no_module_is_refused() {
        let whole = module(&[&[OP_DECORATE.into(), 1, 1, 7], &[21, 2, 32, 0]]);
        assert_eq!(Module::parse(&whole).unwrap().instructions().count(), 2);
        assert_eq!(Module::parse(&module(&[])).unwrap().instructions().count(), 0);
        for cut in (0..whole.len()).filter(|cut| ![20, 36].contains(cut)) {
            assert!(Module::parse(&whole[..cut]).is_none(), "cut at {cut}");
        }
        // An instruction of no words, and the other byte order.
        let mut damaged = whole.clone();
        damaged[20..24].fill(0);
        assert!(Module::parse(&damaged).is_none());
        damaged = whole;
        damaged[..4].reverse();
        assert!(Module::parse(&damaged).is_none());
    }

    #[test]
    fn specialization_constants_have_their_types_sizes() {
        let bytes = module(&[
            &[OP_DECORATE.into(), 10, DECORATION_SPEC_ID, 100],
            &[OP_DECORATE.into(), 11, DECORATION_SPEC_ID, 101],
            &[OP_DECORATE.into(), 12, DECORATION_SPEC_ID, 102],
            &[OP_DECORATE.into(), 13, DECORATION_SPEC_ID, 103],
            &[OP_TYPE_INT.into(), 1, 32, 0],
            &[OP_TYPE_FLOAT.into(), 2, 64],
            &[OP_SPEC_CONSTANT.into(), 1, 10, 5],
            &[OP_SPEC_CONSTANT.into(), 2, 11, 0, 0],
            &[OP_SPEC_CONSTANT_TRUE.into(), 3, 12],
        ]);
        let module = Module::parse(&bytes).unwrap();
        let sizes = [100, 101, 102, 103, 104].map(|id| module.spec_constant_size(id));
        assert_eq!(sizes, [Some(4), Some(8), Some(1), None, None]);
    }
}
