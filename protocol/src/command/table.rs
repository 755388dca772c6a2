//! What the table of commands is made into.

use super::Body;
use crate::frame::Tail;

/// For each command: its opcode, whether it may have a wait list, most bytes of inline data, and its fields.
macro_rules! commands {
    ($(
        $(#[$doc:meta])*
        $name:ident = $code:literal, wait: $wait:literal, data: $data:expr, {
            $( $(#[$field_doc:meta])* $field:ident: $type:ty, )*
        }
    )*) => {
        /// Number of a command in its frame's header.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Opcode {
            $( $(#[$doc])* $name = $code, )*
        }

        impl Opcode {
            /// Every opcode, in the order of the table.
            pub const ALL: &'static [Opcode] = &[ $( Opcode::$name, )* ];

            /// The opcode with this number.
            pub fn from_wire(number: u16) -> Option<Opcode> {
                match number {
                    $( $code => Some(Opcode::$name), )*
                    _ => None,
                }
            }

            /// The command's name, for logs.
            pub fn name(self) -> &'static str {
                match self {
                    $( Opcode::$name => stringify!($name), )*
                }
            }

            /// True if the command may have a wait list.
            pub fn may_wait(self) -> bool {
                match self {
                    $( Opcode::$name => $wait, )*
                }
            }

            /// Most inline data bytes that the command may have.
            pub fn max_data(self) -> u32 {
                match self {
                    $( Opcode::$name => $data, )*
                }
            }

            /// Size of the command's body in bytes.
            pub fn body_len(self) -> usize {
                match self {
                    $( Opcode::$name => size_of::<$name>(), )*
                }
            }
        }

        $(
            $(#[$doc])*
            #[derive(
                Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
                Unaligned,
            )]
            #[repr(C)]
            pub struct $name {
                $( $(#[$field_doc])* pub $field: $type, )*
            }

            impl Body for $name {
                const OPCODE: Opcode = Opcode::$name;
            }
        )*

        /// A command, understood but not yet allowed: its ids and numbers are the guest's claims.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Command<'a> {
            $( $(#[$doc])* $name(&'a $name, Tail<'a>), )*
        }

        impl<'a> Command<'a> {
            /// Gives a frame its type. Every byte is accounted for: a wait list or data where the command has
            /// none is a fault.
            pub fn parse(frame: &Frame<'a>) -> Result<Command<'a>, Fault> {
                let opcode =
                    Opcode::from_wire(frame.header.opcode.get()).ok_or(Fault::UnknownOpcode)?;
                if frame.header.data_len.get() > opcode.max_data()
                    || (frame.header.wait_count.get() != 0 && !opcode.may_wait())
                {
                    return Err(Fault::BadFrame);
                }
                Ok(match opcode {
                    $( Opcode::$name => {
                        let (body, tail) = frame.split()?;
                        Command::$name(body, tail)
                    } )*
                })
            }

            /// The command's opcode.
            pub fn opcode(&self) -> Opcode {
                match self {
                    $( Command::$name(..) => Opcode::$name, )*
                }
            }

            /// Writes the command back as a frame; the inverse of [`parse`](Command::parse).
            pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
                match self {
                    $( Command::$name(body, tail) => encode_parsed(out, *body, tail), )*
                }
            }
        }
    };
}

/// Writes a command that was parsed back as a frame.
pub(super) fn encode_parsed<B: Body>(out: &mut [u8], body: &B, tail: &Tail<'_>) -> Option<usize> {
    let mut wait = [0; crate::limits::MAX_WAIT_EVENTS as usize];
    let wait = wait.get_mut(..tail.wait.len())?;
    for (to, id) in wait.iter_mut().zip(tail.wait) {
        *to = id.get();
    }
    body.encode(out, wait, tail.data)
}

pub(super) use commands;
