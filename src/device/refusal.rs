//! Why a request was refused.

use paragpu_protocol::fault::Fault;
use paragpu_protocol::virtio_gpu::Response;

use super::extents::ExtentError;
use super::request::RequestError;

/// Why a request was refused; one variant per mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It could not be understood.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Its submission could not be understood, or asks for what is not allowed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Its extents are no good.
    #[error(transparent)]
    Extents(#[from] ExtentError),
    /// A resource id that names nothing.
    #[error("no resource {0}")]
    NoResource(u32),
    /// A new resource's id is zero or taken.
    #[error("resource id {0} is zero or in use")]
    ResourceTaken(u32),
    /// A resource of no size, or larger than allowed.
    #[error("resource of {0} bytes")]
    ResourceSize(u64),
    /// A resource that has pages already.
    #[error("resource {0} has backing already")]
    AlreadyBacked(u32),
    /// A resource that the context is still letting go of.
    #[error("resource {0} is still being detached")]
    Leaving(u32),
    /// A context id that names nothing.
    #[error("no context {0}")]
    NoContext(u32),
    /// A new context's id is zero or taken.
    #[error("context id {0} is zero or in use")]
    ContextTaken(u32),
    /// More of something than the limits allow.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// A capset that this device does not have.
    #[error("unknown capset")]
    UnknownCapset,
}

impl Refusal {
    /// What virtio-gpu answers.
    pub fn response(self) -> Response {
        match self {
            Refusal::Request(RequestError::Unknown(_)) | Refusal::Leaving(_) => Response::ErrUnspec,
            Refusal::Request(_) | Refusal::Fault(_) | Refusal::UnknownCapset | Refusal::AlreadyBacked(_) => {
                Response::ErrInvalidParameter
            }
            Refusal::Extents(ExtentError::TooMany) | Refusal::TooMany(_) | Refusal::ResourceSize(_) => {
                Response::ErrOutOfMemory
            }
            Refusal::Extents(_) => Response::ErrInvalidParameter,
            Refusal::NoResource(_) | Refusal::ResourceTaken(_) => Response::ErrInvalidResourceId,
            Refusal::NoContext(_) | Refusal::ContextTaken(_) => Response::ErrInvalidContextId,
        }
    }
}
