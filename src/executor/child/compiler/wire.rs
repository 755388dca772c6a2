//! What an executor and its compiler say to each other. The executor sends recipes, each behind its length (`u32`,
//! little-endian); the compiler sends answers of eight bytes, which the executor takes as it takes a guest's.

/// Longest recipe: twice what the sources of one context may have.
pub(super) const MAX_RECIPE_BYTES: usize = 1 << 30;

/// Length of an answer.
pub(super) const ANSWER_BYTES: usize = 8;

/// What a compiler says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has found the devices, and waits for a recipe. Once.
    Ready,
    /// It has a recipe. What becomes of it from here on is the recipe's doing.
    Taken,
    /// Everything is made again that was made before; what is new begins.
    Begun,
    /// The build has ended, well or not.
    Ended,
    /// The same, and the compiler ends: it has grown.
    EndedLast,
    /// The build needs more memory than it may have.
    Memory,
}

impl Answer {
    const ALL: [Answer; 6] =
        [Answer::Ready, Answer::Taken, Answer::Begun, Answer::Ended, Answer::EndedLast, Answer::Memory];

    pub(super) fn encode(self) -> [u8; ANSWER_BYTES] {
        (0x7067_0000 + self as u64).to_le_bytes()
    }

    /// None for what is no answer.
    pub(super) fn decode(bytes: [u8; ANSWER_BYTES]) -> Option<Answer> {
        Answer::ALL.into_iter().find(|answer| answer.encode() == bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;

    #[test]
    fn answers_are_told_apart_and_anything_else_is_none() {
        for answer in Answer::ALL {
            assert_eq!(Answer::decode(answer.encode()), Some(answer));
        }
        assert_eq!(Answer::decode([0; 8]), None);
        assert_eq!(Answer::decode([0xff; 8]), None);
    }
}
