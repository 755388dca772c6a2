//! The arguments of a kernel: what they are set to, and what the host knows of it.
//!
//! Kernels are launched in loops that set every argument each time. Of what changes nothing the host does not hear, and of
//! values only before a launch.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Weak};

use paragpu_protocol::kernel::{ArgInfo, ArgKind};
use paragpu_protocol::limits::MAX_INLINE_BYTES;

use crate::boundary::object::Object;
use crate::core::buffer::Buffer;
use crate::core::error::{ClError, ClResult};
use crate::core::lock;

/// What the host says of an argument.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arg {
    /// What may be set.
    pub(crate) kind: ArgKind,
    /// What the kernel does with an image: `ACCESS_READ`, `ACCESS_WRITE`.
    pub(crate) access: u8,
    size: Size,
}

impl From<&ArgInfo> for Arg {
    fn from(info: &ArgInfo) -> Arg {
        let size = match info.size.get() {
            0 => Size::Taken(0),
            size => Size::Exact(size as usize),
        };
        let kind = ArgKind::from_wire(info.kind).unwrap_or(ArgKind::Other);
        Arg { kind, access: info.access, size }
    }
}

/// How long a value may be, in bytes.
#[derive(Clone, Copy, Debug)]
enum Size {
    /// That many: its type is one of OpenCL C's own.
    Exact(usize),
    /// The host decides, and took this many before; 0 for nothing yet.
    Taken(usize),
}

/// What an argument is set to: for telling whether all are, for leaving out what changes nothing, and for clones.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A number of so many bytes, of which the host has this one.
    Number { len: u8, sent: u64 },
    /// Other bytes, and whether the host has older ones.
    Bytes { bytes: Box<[u8]>, is_unsent: bool },
    /// An object, or a null pointer.
    Object(Option<Weak<dyn Passable>>),
    /// A pointer into shared memory.
    Pointer(Weak<Object<Buffer>>, usize),
    /// So many bytes of local memory.
    Local(usize),
}

/// An object that can be an argument.
pub(crate) trait Passable: std::fmt::Debug + Send + Sync {
    /// What the host calls it.
    fn id(&self) -> u32;
}

impl Value {
    fn of_bytes(bytes: &[u8]) -> Value {
        match (bits(bytes), u8::try_from(bytes.len())) {
            (Some(sent), Ok(len)) => Value::Number { len, sent },
            _ => Value::Bytes { bytes: bytes.into(), is_unsent: false },
        }
    }

    fn is_same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Number { len, sent }, Value::Number { len: other_len, sent: other }) => {
                len == other_len && sent == other
            }
            (Value::Bytes { bytes: a, .. }, Value::Bytes { bytes: b, .. }) => a == b,
            // Weak references keep the address from being used again, so equal ones are the same object.
            (Value::Object(Some(a)), Value::Object(Some(b))) => Weak::ptr_eq(a, b),
            (Value::Object(None), Value::Object(None)) => true,
            (Value::Pointer(a, at), Value::Pointer(b, other)) => Weak::ptr_eq(a, b) && at == other,
            (Value::Local(a), Value::Local(b)) => a == b,
            _ => false,
        }
    }
}

/// The bytes of a number as bits; nothing if there are not as many as numbers have.
fn bits(bytes: &[u8]) -> Option<u64> {
    Some(match bytes.len() {
        1 => u64::from(bytes[0]),
        2 => u64::from(u16::from_le_bytes(*bytes.first_chunk()?)),
        4 => u64::from(u32::from_le_bytes(*bytes.first_chunk()?)),
        8 => u64::from_le_bytes(*bytes.first_chunk()?),
        _ => return None,
    })
}

/// The newest value of an argument that is a number. It changes without a lock, which takes longer than all the rest of
/// setting it: "the behavior of the cl_kernel object is undefined if clSetKernelArg is called from multiple host threads on
/// the same cl_kernel object at the same time". Here the kernel then has one of the values.
///
/// Others may launch the kernel meanwhile. So the length stays when the host is told: if it were taken back then, a number
/// that is set at that moment would not be sent before the launch that its own thread makes next.
#[derive(Debug, Default)]
struct Number {
    bits: AtomicU64,
    /// Its length in bytes if each launch compares it with what the host has, otherwise 0.
    compared: AtomicU8,
}

impl Number {
    /// Replaces a number of which the host hears before the next launch in any case. False if this is none.
    fn replace(&self, new: &[u8]) -> bool {
        let Some(bits) = bits(new) else { return false };
        if usize::from(self.compared.load(Ordering::Relaxed)) != new.len() {
            return false;
        }
        self.bits.store(bits, Ordering::Relaxed);
        true
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Arguments {
    args: Box<[Arg]>,
    numbers: Box<[Number]>,
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// How many bytes each took last, where the host decides.
    sizes: Box<[Size]>,
    values: Box<[Option<Value>]>,
    missing: usize,
    /// The numbers that have changed since they were told at once: each launch looks whether the host has their newest
    /// values. Their lengths are right, as those of `unsent`: it took others as long before.
    compared: Vec<u32>,
    /// The other arguments of whose newest values the host has not heard.
    unsent: Vec<u32>,
}

impl Arguments {
    /// None of them is set.
    pub(crate) fn new(args: Vec<Arg>) -> Arguments {
        let (sizes, values) =
            (args.iter().map(|arg| arg.size).collect(), args.iter().map(|_| None).collect());
        let state = State { sizes, values, missing: args.len(), compared: Vec::new(), unsent: Vec::new() };
        Arguments::with(args.into(), state)
    }

    fn with(args: Box<[Arg]>, state: State) -> Arguments {
        Arguments { numbers: args.iter().map(|_| Number::default()).collect(), args, state: state.into() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.args.len()
    }

    /// What the host says of argument `index`.
    pub(crate) fn get(&self, index: u32) -> Option<&Arg> {
        self.args.get(index as usize)
    }

    /// True if every argument is set.
    pub(crate) fn are_all_set(&self) -> bool {
        self.lock().missing == 0
    }

    /// Sets argument `index`, which there is, unless it has that value already. `send` tells the host.
    pub(crate) fn set(&self, index: u32, value: Value, send: impl FnOnce() -> ClResult<()>) -> ClResult<()> {
        self.set_locked(&mut self.lock(), index, value, |_size| send())
    }

    fn set_locked(
        &self,
        state: &mut State,
        index: u32,
        value: Value,
        send: impl FnOnce(&mut Size) -> ClResult<()>,
    ) -> ClResult<()> {
        let at = index as usize;
        if state.values[at].as_ref().is_some_and(|old| old.is_same(&value)) {
            return Ok(());
        }
        send(&mut state.sizes[at])?;
        state.unsent.retain(|unsent| *unsent != index);
        state.compared.retain(|compared| *compared != index);
        self.numbers[at].compared.store(0, Ordering::Relaxed);
        if state.values[at].replace(value).is_none() {
            state.missing -= 1;
        }
        Ok(())
    }

    /// Sets argument `index`, which there is, to bytes. `send` tells the host at once, and waits for its outcome if it is
    /// told that nobody knows whether that many bytes are right.
    ///
    /// CL_INVALID_ARG_SIZE if arg_size does not match the size of the data type for an argument that is not a memory object.
    pub(crate) fn set_value(
        &self,
        index: u32,
        bytes: &[u8],
        send: impl FnOnce(bool) -> ClResult<()>,
    ) -> ClResult<()> {
        let at = index as usize;
        if self.numbers[at].replace(bytes) {
            return Ok(());
        }
        let state = &mut *self.lock();
        if self.replace(state, index, bytes) {
            return Ok(());
        }
        self.set_locked(state, index, Value::of_bytes(bytes), |size| {
            let (is_known, is_wrong) = match *size {
                Size::Exact(exact) => (true, exact != bytes.len()),
                Size::Taken(taken) => (taken == bytes.len(), false),
            };
            if is_wrong || bytes.len() > MAX_INLINE_BYTES as usize {
                return Err(ClError::INVALID_ARG_SIZE);
            }
            send(!is_known)?;
            if !is_known {
                *size = Size::Taken(bytes.len());
            }
            Ok(())
        })
    }

    /// Sets an argument that is as many bytes already to others, of which the host hears later. False if it is not.
    fn replace(&self, state: &mut State, index: u32, new: &[u8]) -> bool {
        let number = &self.numbers[index as usize];
        match &mut state.values[index as usize] {
            Some(Value::Number { len, sent }) if usize::from(*len) == new.len() => {
                let Some(bits) = bits(new) else { return false };
                number.bits.store(bits, Ordering::Relaxed);
                if bits != *sent && number.compared.swap(*len, Ordering::Relaxed) == 0 {
                    state.compared.push(index);
                }
                true
            }
            Some(Value::Bytes { bytes, is_unsent }) if bytes.len() == new.len() => {
                if **bytes != *new {
                    bytes.copy_from_slice(new);
                    if !std::mem::replace(is_unsent, true) {
                        state.unsent.push(index);
                    }
                }
                true
            }
            _ => false,
        }
    }

    /// Tells the host the values that it does not know yet: `send` gets each with its argument's index.
    pub(crate) fn send_values(&self, send: impl Fn(u32, &[u8]) -> ClResult<()>) -> ClResult<()> {
        self.send_locked(&mut self.lock(), send)
    }

    fn send_locked(&self, state: &mut State, send: impl Fn(u32, &[u8]) -> ClResult<()>) -> ClResult<()> {
        let State { values, compared, unsent, .. } = state;
        for &index in compared.iter() {
            let newest = self.numbers[index as usize].bits.load(Ordering::Relaxed);
            if let Some(Value::Number { len, sent }) = &mut values[index as usize]
                && *sent != newest
            {
                send(index, &newest.to_le_bytes()[..usize::from(*len)])?;
                *sent = newest;
            }
        }
        while let Some(index) = unsent.pop() {
            if let Some(Value::Bytes { bytes, is_unsent }) = &mut values[index as usize] {
                *is_unsent = false;
                send(index, bytes)?;
            }
        }
        Ok(())
    }

    /// The same arguments, as they are now, for a kernel that the host makes by `clone` after it was told of the values.
    pub(crate) fn duplicate(
        &self,
        send: impl Fn(u32, &[u8]) -> ClResult<()>,
        clone: impl FnOnce() -> ClResult<()>,
    ) -> ClResult<Arguments> {
        // Locked, so that both are copied as they are now.
        let mut state = self.lock();
        self.send_locked(&mut state, send)?;
        clone()?;
        // The copy's numbers have not changed yet.
        Ok(Arguments::with(self.args.clone(), State { compared: Vec::new(), ..state.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    fn arg(kind: ArgKind, size: u32) -> Arg {
        Arg::from(&ArgInfo { kind: kind as u8, size: size.into(), ..ArgInfo::default() })
    }

    /// What a host knows that is told of everything.
    #[derive(Default)]
    struct Host(RefCell<Vec<(u32, Vec<u8>)>>);

    impl Host {
        fn hear(&self, index: u32, bytes: &[u8]) -> ClResult<()> {
            self.0.borrow_mut().push((index, bytes.to_vec()));
            Ok(())
        }

        fn knows(&self, index: u32) -> Option<Vec<u8>> {
            self.0.borrow().iter().rfind(|(of, _)| *of == index).map(|(_, bytes)| bytes.clone())
        }

        fn count(&self) -> usize {
            self.0.borrow().len()
        }
    }

    fn set(arguments: &Arguments, host: &Host, index: u32, bytes: &[u8]) -> ClResult<()> {
        arguments.set_value(index, bytes, |_must_wait| host.hear(index, bytes))
    }

    #[test]
    fn the_host_hears_of_the_first_value_at_once_and_of_the_newest_before_a_launch() {
        let (arguments, host) = (Arguments::new(vec![arg(ArgKind::Value, 4); 2]), Host::default());
        assert!(!arguments.are_all_set());
        for index in 0..2 {
            set(&arguments, &host, index, &7_u32.to_le_bytes()).unwrap();
        }
        assert!(arguments.are_all_set());
        assert_eq!(host.count(), 2);
        for value in 8_u32..1000 {
            set(&arguments, &host, 1, &value.to_le_bytes()).unwrap();
        }
        assert_eq!(host.count(), 2);
        arguments.send_values(|index, bytes| host.hear(index, bytes)).unwrap();
        assert_eq!((host.count(), host.knows(1)), (3, Some(999_u32.to_le_bytes().to_vec())));
        arguments.send_values(|index, bytes| host.hear(index, bytes)).unwrap();
        assert_eq!(host.count(), 3, "it knows that already");
    }

    #[test]
    fn lengths_are_those_of_the_type_or_what_the_host_takes() {
        let (arguments, host) =
            (Arguments::new(vec![arg(ArgKind::Value, 4), arg(ArgKind::Value, 0)]), Host::default());
        for wrong in [&[1_u8; 3][..], &[1; 8], &[]] {
            assert_eq!(set(&arguments, &host, 0, wrong), Err(ClError::INVALID_ARG_SIZE));
        }
        let asked = |bytes: &[u8], refuse: bool| {
            let asked = RefCell::new(None);
            let result = arguments.set_value(1, bytes, |must_wait| {
                asked.replace(Some(must_wait));
                if refuse { Err(ClError::INVALID_ARG_SIZE) } else { Ok(()) }
            });
            (asked.into_inner(), result)
        };
        assert_eq!(asked(&[1; 4], true), (Some(true), Err(ClError::INVALID_ARG_SIZE)));
        assert_eq!(asked(&[1; 12], false), (Some(true), Ok(())));
        assert_eq!(asked(&[2; 12], false), (None, Ok(())), "it took as many before");
        assert_eq!(asked(&[2; 8], true), (Some(true), Err(ClError::INVALID_ARG_SIZE)));
        arguments.send_values(|index, bytes| host.hear(index, bytes)).unwrap();
        assert_eq!(host.knows(1), Some(vec![2; 12]), "what was refused changed nothing");
    }

    #[test]
    fn a_copy_has_the_values_of_its_time() {
        let (arguments, host) = (Arguments::new(vec![arg(ArgKind::Value, 4)]), Host::default());
        set(&arguments, &host, 0, &1_u32.to_le_bytes()).unwrap();
        set(&arguments, &host, 0, &2_u32.to_le_bytes()).unwrap();
        let copy = arguments
            .duplicate(
                |index, bytes| host.hear(index, bytes),
                || {
                    assert_eq!(host.knows(0), Some(2_u32.to_le_bytes().to_vec()));
                    Ok(())
                },
            )
            .unwrap();
        let of_copy = Host::default();
        set(&arguments, &host, 0, &3_u32.to_le_bytes()).unwrap();
        set(&copy, &of_copy, 0, &2_u32.to_le_bytes()).unwrap();
        copy.send_values(|index, bytes| of_copy.hear(index, bytes)).unwrap();
        assert_eq!(of_copy.count(), 0, "it has that value");
        set(&copy, &of_copy, 0, &4_u32.to_le_bytes()).unwrap();
        copy.send_values(|index, bytes| of_copy.hear(index, bytes)).unwrap();
        assert_eq!(of_copy.knows(0), Some(4_u32.to_le_bytes().to_vec()));
    }

    #[test]
    fn a_launch_has_what_its_own_thread_has_set_while_others_launch() {
        const ROUNDS: u32 = 100_000;
        let (arguments, known) = (Arguments::new(vec![arg(ArgKind::Value, 4)]), AtomicU64::new(0));
        let hear = |_index: u32, bytes: &[u8]| {
            known.store(bits(bytes).unwrap(), Ordering::SeqCst);
            Ok(())
        };
        let is_over = AtomicBool::new(false);
        let set = |value: u32| {
            let bytes = value.to_le_bytes();
            arguments.set_value(0, &bytes, |_must_wait| hear(0, &bytes)).unwrap();
        };
        set(0);
        let lost = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    arguments.send_values(hear).unwrap();
                }
            });
            let is_lost = |value: &u32| {
                set(*value);
                // Another number, of which the host hears in any case.
                set(*value + ROUNDS);
                arguments.send_values(hear).unwrap();
                known.load(Ordering::SeqCst) != u64::from(*value + ROUNDS)
            };
            let lost = (1..ROUNDS).find(is_lost);
            is_over.store(true, Ordering::Relaxed);
            lost
        });
        assert_eq!(lost, None);
    }

    /// What an application may do.
    #[derive(Clone, Debug)]
    enum Step {
        Bytes(u32, Vec<u8>),
        Local(u32, usize),
        Launch,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let lengths = prop_oneof![1..5_usize, 7..10_usize];
        // Few values, so that the same one comes again.
        let bytes = lengths.prop_flat_map(|len| prop::collection::vec(0..2_u8, len));
        let step = prop_oneof![
            6 => (0..2_u32, bytes).prop_map(|(index, bytes)| Step::Bytes(index, bytes)),
            1 => (0..2_u32, 1..3_usize).prop_map(|(index, size)| Step::Local(index, size)),
            2 => any::<()>().prop_map(|()| Step::Launch),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn at_a_launch_the_host_has_what_was_set_last(steps in steps()) {
            let (arguments, host) = (Arguments::new(vec![arg(ArgKind::Value, 0); 2]), Host::default());
            let mut last = [const { None }; 2];
            for step in steps {
                match step {
                    Step::Bytes(index, bytes) => {
                        prop_assert!(set(&arguments, &host, index, &bytes).is_ok());
                        last[index as usize] = Some(bytes);
                    }
                    // Stands for all that is no value; as bytes that no value here has.
                    Step::Local(index, size) => {
                        let bytes = vec![9; size];
                        let sent = arguments.set(index, Value::Local(size), || host.hear(index, &bytes));
                        prop_assert!(sent.is_ok());
                        last[index as usize] = Some(bytes);
                    }
                    Step::Launch => {
                        prop_assert!(arguments.send_values(|index, bytes| host.hear(index, bytes)).is_ok());
                        for (index, value) in last.iter().enumerate() {
                            prop_assert_eq!(&host.knows(index as u32), value);
                        }
                    }
                }
            }
            prop_assert_eq!(arguments.are_all_set(), last.iter().all(Option::is_some));
        }
    }
}
