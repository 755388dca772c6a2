//! Program binaries: what `CL_PROGRAM_BINARIES` gives out and `clCreateProgramWithBinary` takes back.
//!
//! OpenCL leaves the format to the implementation. Ours holds recipes: each after those that it is made of, the
//! program's own last. All integers are little-endian; a block is its length (u64) and its bytes.
//!
//! ```text
//! 0   16 bytes  "paragpu program\0"
//! 16  u64       checksum of all that follows (FNV-1a)
//! 24  u32       number of recipes, then each of them:
//!     u8        1 source, 2 SPIR-V, 3 linked
//!     1, 2:     u8 (1 for an executable, 0 for a compiled object), block of options, block of code,
//!               u32 number of headers, for each a block of name and one of text,
//!               u32 number of specialization constants, for each its u32 id and a block of its value
//!     3:        block of options, u32 number of inputs, the u32 number of each
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Code, Compiled, Header, Recipe};

const MAGIC: [u8; 16] = *b"paragpu program\0";
const PREFIX_BYTES: usize = MAGIC.len() + size_of::<u64>();

const SOURCE: u8 = 1;
const IL: u8 = 2;
const LINKED: u8 = 3;

impl Recipe {
    /// The bytes that the application gets.
    pub(in crate::core) fn write(self: &Arc<Recipe>) -> Vec<u8> {
        let mut writer = Writer { bytes: Vec::new(), numbers: HashMap::new() };
        writer.recipe(self);
        let count = (writer.numbers.len() as u32).to_le_bytes();
        let checksum = checksum(count.iter().chain(&writer.bytes)).to_le_bytes();
        [&MAGIC, &checksum[..], &count, &writer.bytes].concat()
    }

    /// Takes the bytes back, if they are as they were given out.
    pub(in crate::core) fn read(bytes: &[u8]) -> Option<Arc<Recipe>> {
        let (prefix, rest) = bytes.split_at_checked(PREFIX_BYTES)?;
        let (magic, sum) = prefix.split_at(MAGIC.len());
        if magic != MAGIC || sum != checksum(rest).to_le_bytes() {
            return None;
        }
        let mut reader = Reader(rest);
        let mut recipes: Vec<Arc<Recipe>> = Vec::new();
        for _ in 0..reader.u32()? {
            let recipe = Arc::new(reader.recipe(&recipes)?);
            recipes.push(recipe);
        }
        if reader.0.is_empty() { recipes.pop() } else { None }
    }
}

/// FNV-1a: against files that were cut or damaged, not against anybody. Whoever makes one up gets a program that they
/// could have given the source of.
fn checksum<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

struct Writer {
    bytes: Vec<u8>,
    /// The recipes that are written, and their numbers.
    numbers: HashMap<*const Recipe, u32>,
}

impl Writer {
    fn u32(&mut self, number: usize) {
        self.bytes.extend((number as u32).to_le_bytes());
    }

    fn block(&mut self, bytes: &[u8]) {
        self.bytes.extend((bytes.len() as u64).to_le_bytes());
        self.bytes.extend(bytes);
    }

    /// Writes a recipe and those that it is made of, each once, and returns its number.
    fn recipe(&mut self, recipe: &Arc<Recipe>) -> u32 {
        if let Some(number) = self.numbers.get(&Arc::as_ptr(recipe)) {
            return *number;
        }
        match &**recipe {
            Recipe::Compiled(compiled) => self.compiled(compiled),
            Recipe::Linked(linked) => {
                let inputs: Vec<u32> = linked.inputs.iter().map(|input| self.recipe(input)).collect();
                self.bytes.push(LINKED);
                self.block(&linked.options);
                self.u32(inputs.len());
                inputs.into_iter().for_each(|input| self.u32(input as usize));
            }
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(Arc::as_ptr(recipe), number);
        number
    }

    fn compiled(&mut self, compiled: &Compiled) {
        let none = BTreeMap::new();
        let (tag, code, constants) = match &compiled.code {
            Code::Source(text) => (SOURCE, text, &none),
            Code::Il(module, constants) => (IL, module, constants),
        };
        self.bytes.extend([tag, u8::from(compiled.is_executable)]);
        self.block(&compiled.options);
        self.block(code);
        self.u32(compiled.headers.len());
        for header in &compiled.headers {
            self.block(&header.name);
            self.block(&header.text);
        }
        self.u32(constants.len());
        for (id, value) in constants {
            self.u32(*id as usize);
            self.block(value);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn block(&mut self) -> Option<Vec<u8>> {
        let len = u64::from_le_bytes(*self.take(8)?.first_chunk()?);
        self.take(usize::try_from(len).ok()?).map(<[u8]>::to_vec)
    }

    fn recipe(&mut self, before: &[Arc<Recipe>]) -> Option<Recipe> {
        let tag = self.u8()?;
        if tag == LINKED {
            let options = self.block()?;
            let inputs = (0..self.u32()?).map(|_| before.get(self.u32()? as usize).cloned());
            return Recipe::linked(inputs.collect::<Option<_>>()?, options);
        }
        let is_executable = self.u8()? == 1;
        let options = self.block()?;
        let code = Arc::new(self.block()?);
        let headers = (0..self.u32()?)
            .map(|_| Some(Header { name: self.block()?, text: Arc::new(self.block()?) }))
            .collect::<Option<_>>()?;
        let constants =
            (0..self.u32()?).map(|_| Some((self.u32()?, self.block()?))).collect::<Option<_>>()?;
        let code = match tag {
            SOURCE => Code::Source(code),
            IL => Code::Il(code, constants),
            _ => return None,
        };
        Some(Recipe::Compiled(Compiled { code, headers, options, is_executable }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipes() -> Vec<Arc<Recipe>> {
        let compiled = |code, options: &str, is_executable| {
            Arc::new(Recipe::Compiled(Compiled {
                code,
                headers: Vec::new(),
                options: options.into(),
                is_executable,
            }))
        };
        let source = compiled(Code::Source(Arc::new(b"kernel void f() {}".into())), "-DX=1", true);
        let constants = BTreeMap::from([(7, vec![1, 2, 3, 4]), (9, vec![1])]);
        let il = compiled(Code::Il(Arc::new(vec![3, 2, 0x23, 7]), constants), "", false);
        let object = Arc::new(Recipe::Compiled(Compiled {
            code: Code::Source(Arc::default()),
            headers: vec![Header { name: b"a/b.h".into(), text: Arc::new(b"text".into()) }],
            options: b"-w".into(),
            is_executable: false,
        }));
        let link = |inputs: &[&Arc<Recipe>], options: &str| {
            let inputs = inputs.iter().map(|input| Arc::clone(input)).collect();
            Arc::new(Recipe::linked(inputs, options.into()).unwrap())
        };
        let library = link(&[&il, &object], "-create-library");
        let all = link(&[&library, &object, &library], "");
        vec![source, il, object, library, all]
    }

    #[test]
    fn what_is_given_out_is_taken_back_and_nothing_else_is() {
        for recipe in recipes() {
            let bytes = recipe.write();
            assert_eq!(Recipe::read(&bytes), Some(recipe));
            for cut in 0..bytes.len() {
                assert_eq!(Recipe::read(&bytes[..cut]), None, "cut at {cut}");
                let mut damaged = bytes.clone();
                damaged[cut] ^= 1;
                assert_eq!(Recipe::read(&damaged), None, "damaged at {cut}");
            }
        }
        assert_eq!(Recipe::read(b"\x7fELF of somebody else's, and quite long"), None);
    }

    #[test]
    fn what_is_shared_is_written_once_and_shared_again() {
        let recipe = recipes().pop().unwrap();
        let bytes = recipe.write();
        assert_eq!(bytes.windows(5).filter(|window| window == b"a/b.h").count(), 1);
        let back = Recipe::read(&bytes).unwrap();
        let Recipe::Linked(linked) = &*back else { panic!("{back:?}") };
        assert!(Arc::ptr_eq(&linked.inputs[0], &linked.inputs[2]));
    }

    #[test]
    fn bytes_with_a_good_checksum_are_read_or_refused() {
        let seal = |body: &[u8]| [&MAGIC, &checksum(body).to_le_bytes()[..], body].concat();
        let good = recipes().pop().unwrap().write()[PREFIX_BYTES..].to_vec();
        assert!(Recipe::read(&seal(&good)).is_some());
        for at in 0..good.len() {
            for value in [0, 1, 2, 3, 0x7f, 0xff] {
                let mut damaged = good.clone();
                damaged[at] = value;
                let _ = Recipe::read(&seal(&damaged));
            }
            assert_eq!(Recipe::read(&seal(&good[..at])), None, "cut at {at}");
        }
        assert_eq!(Recipe::read(&seal(&[0; 4])), None, "no recipe at all");
        // A recipe that is made of itself.
        let circle =
            [&[1, 0, 0, 0, LINKED][..], &[0; 8], &1_u32.to_le_bytes(), &0_u32.to_le_bytes()].concat();
        assert_eq!(Recipe::read(&seal(&circle)), None);
    }
}
