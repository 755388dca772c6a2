//! Samplers.

use std::sync::Arc;

use opencl_sys::{
    CL_SAMPLER_ADDRESSING_MODE, CL_SAMPLER_CONTEXT, CL_SAMPLER_FILTER_MODE, CL_SAMPLER_NORMALIZED_COORDS,
    CL_SAMPLER_PROPERTIES, CL_SAMPLER_REFERENCE_COUNT,
};
use paragpu_protocol::command::CreateSampler;

use crate::boundary::object::{Kind, Object};
use crate::core::context::{self, Context};
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;

/// A sampler.
#[derive(Debug)]
pub(crate) struct Sampler {
    context: Arc<Object<Context>>,
    id: u32,
    modes: Modes,
    /// As the application gave them to `clCreateSamplerWithProperties`.
    properties: Vec<u64>,
}

/// What a sampler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Modes {
    pub(crate) is_normalized: bool,
    /// `cl_addressing_mode`.
    pub(crate) addressing: u32,
    /// `cl_filter_mode`.
    pub(crate) filter: u32,
}

impl Kind for Sampler {
    const TAG: u32 = u32::from_le_bytes(*b"samp");
    const INVALID: ClError = ClError::INVALID_SAMPLER;
}

impl Sampler {
    /// Creates a sampler.
    pub(crate) fn new(
        context: &Object<Context>,
        modes: Modes,
        properties: Vec<u64>,
    ) -> ClResult<Arc<Object<Sampler>>> {
        let id = context.connection().new_id();
        let body = CreateSampler {
            create: context::create(id, context.id()),
            normalized: u32::from(modes.is_normalized).into(),
            addressing: modes.addressing.into(),
            filter: modes.filter.into(),
            reserved: 0.into(),
        };
        context.connection().send(&body, &[], &[])?;
        Ok(Object::new(Sampler { context: context.arc(), id, modes, properties }))
    }

    /// The sampler's context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        &self.context
    }

    /// What the host calls the sampler.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Object<Sampler> {
    /// `clGetSamplerInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_SAMPLER_REFERENCE_COUNT => Info::value(self.reference_count()),
            CL_SAMPLER_CONTEXT => Info::handle(self.context.handle()),
            CL_SAMPLER_NORMALIZED_COORDS => Info::bool(self.modes.is_normalized),
            CL_SAMPLER_ADDRESSING_MODE => Info::value(self.modes.addressing),
            CL_SAMPLER_FILTER_MODE => Info::value(self.modes.filter),
            CL_SAMPLER_PROPERTIES => Info::list(&self.properties),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.context.connection().release(self.id);
    }
}
