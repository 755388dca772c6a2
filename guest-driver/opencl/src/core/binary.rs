//! Program binaries: what `CL_PROGRAM_BINARIES` gives out and `clCreateProgramWithBinary` takes back.
//!
//! OpenCL leaves the format to the implementation. Ours holds the program's text (with the files that it includes) and
//! its build options, not what the host's compiler made of them: that may be native code, which the host would have to
//! trust, and would not survive a move to another host. So a program with its own cache of binaries works as it is, on
//! whatever host it finds itself.
//!
//! ```text
//! 0   16 bytes  "paragpu program\0"
//! 16  u64       checksum of all that follows (FNV-1a)
//! 24  u64       length of the text
//! 32            the text, then the options
//! ```

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 16] = *b"paragpu program\0";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 16],
    checksum: U64,
    text_len: U64,
}

/// What a binary holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binary {
    /// The program's text.
    pub(super) text: Vec<u8>,
    /// The options that it was built with.
    pub(super) options: Vec<u8>,
}

impl Binary {
    /// The bytes that the application gets.
    pub(super) fn write(&self) -> Vec<u8> {
        let text_len = U64::new(self.text.len() as u64);
        let checksum = checksum([text_len.as_bytes(), &self.text, &self.options]).into();
        let header = Header { magic: MAGIC, checksum, text_len };
        [header.as_bytes(), &self.text, &self.options].concat()
    }

    /// Takes the bytes back, if they are as they were given out.
    pub(super) fn read(bytes: &[u8]) -> Option<Binary> {
        let (header, rest) = Header::read_from_prefix(bytes).ok()?;
        let is_whole = header.magic == MAGIC
            && header.checksum.get() == checksum([header.text_len.as_bytes(), rest, &[]]);
        let (text, options) = rest.split_at_checked(usize::try_from(header.text_len.get()).ok()?)?;
        is_whole.then(|| Binary { text: text.to_vec(), options: options.to_vec() })
    }
}

/// FNV-1a: against files that were cut or damaged, not against anybody. Whoever makes one up gets a program that they
/// could have given the source of.
fn checksum(parts: [&[u8]; 3]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    parts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_out_is_taken_back_and_nothing_else_is() {
        for (text, options) in [(&b"kernel void f() {}"[..], &b"-DX=1"[..]), (b"", b""), (b"x", b"")] {
            let binary = Binary { text: text.to_vec(), options: options.to_vec() };
            let bytes = binary.write();
            assert_eq!(Binary::read(&bytes), Some(binary));
            for cut in 0..bytes.len() {
                assert_eq!(Binary::read(&bytes[..cut]), None, "cut at {cut}");
                let mut damaged = bytes.clone();
                damaged[cut] ^= 1;
                assert_eq!(Binary::read(&damaged), None, "damaged at {cut}");
            }
        }
        assert_eq!(Binary::read(b"\x7fELF of somebody else's, and quite long"), None);
    }
}
