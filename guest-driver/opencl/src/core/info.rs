//! Answers to `clGet…Info`.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::boundary::object::RawHandle;

/// The bytes of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    bytes: Vec<u8>,
    /// Instead of bytes: what goes to where each pointer in the application's array points.
    pointed: Vec<Vec<u8>>,
}

impl Info {
    /// One number.
    pub(crate) fn value<T: IntoBytes + Immutable>(value: T) -> Info {
        Info::from(value.as_bytes().to_vec())
    }

    /// A `cl_bool`.
    pub(crate) fn bool(value: bool) -> Info {
        Info::value(u32::from(value))
    }

    /// An array.
    pub(crate) fn list<T: IntoBytes + Immutable>(values: &[T]) -> Info {
        Info::from(values.as_bytes().to_vec())
    }

    /// A string, to which the NUL is added.
    pub(crate) fn text(text: &str) -> Info {
        Info::from([text.as_bytes(), &[0]].concat())
    }

    /// Text of the application's, to which the NUL is added.
    pub(crate) fn c_string(text: &[u8]) -> Info {
        Info::from([text, &[0]].concat())
    }

    /// A handle.
    pub(crate) fn handle(handle: RawHandle) -> Info {
        Info::value(handle.bits())
    }

    /// An array of handles.
    pub(crate) fn handles(handles: impl Iterator<Item = RawHandle>) -> Info {
        Info::list(&handles.map(RawHandle::bits).collect::<Vec<_>>())
    }

    /// An answer for an application that gives an array of pointers, one for each of these.
    pub(crate) fn pointed(contents: Vec<Vec<u8>>) -> Info {
        Info { bytes: Vec::new(), pointed: contents }
    }

    /// What goes to where the application's pointers point.
    pub(crate) fn behind_pointers(&self) -> &[Vec<u8>] {
        &self.pointed
    }

    /// What is written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The size that the application is told.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + self.pointed.len() * size_of::<*mut u8>()
    }
}

impl From<Vec<u8>> for Info {
    fn from(bytes: Vec<u8>) -> Info {
        Info { bytes, pointed: Vec::new() }
    }
}

/// A number from an answer of the host; nothing if the answer is too short.
pub(crate) fn number<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// The text before the NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_size_that_applications_expect() {
        assert_eq!(Info::bool(true).bytes(), [1, 0, 0, 0]);
        assert_eq!(Info::text("ab").bytes(), b"ab\0");
        assert_eq!(Info::value(7u64).size(), 8);
        assert_eq!(Info::list::<u64>(&[]).size(), 0);
        assert_eq!(Info::pointed(vec![vec![7; 100]; 2]).size(), 16);
    }

    #[test]
    fn texts_and_numbers_of_the_host_may_be_short() {
        assert_eq!(text(b"abc\0def"), "abc");
        assert_eq!(text(b"abc"), "abc");
        assert_eq!(number::<u32>(&[1, 0, 0, 0, 9]), Some(1));
        assert_eq!(number::<u64>(&[1, 0, 0, 0]), None);
    }
}
