//! Samplers.

use opencl_sys::{
    CL_ADDRESS_CLAMP, CL_ADDRESS_MIRRORED_REPEAT, CL_ADDRESS_NONE, CL_ADDRESS_REPEAT, CL_FILTER_LINEAR,
    CL_FILTER_NEAREST, CL_SAMPLER_ADDRESSING_MODE, CL_SAMPLER_FILTER_MODE, CL_SAMPLER_NORMALIZED_COORDS,
};

use crate::api::image::check_support;
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::In;
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::sampler::{Modes, Sampler};

/// CL_INVALID_VALUE if addressing_mode, filter_mode, normalized_coords or a combination of these arguments are not
/// valid.
fn check_modes(normalized: u64, addressing: u64, filter: u64) -> ClResult<Modes> {
    let is_addressing =
        (u64::from(CL_ADDRESS_NONE)..=u64::from(CL_ADDRESS_MIRRORED_REPEAT)).contains(&addressing);
    let is_filter = (u64::from(CL_FILTER_NEAREST)..=u64::from(CL_FILTER_LINEAR)).contains(&filter);
    // "CL_ADDRESS_REPEAT, CL_ADDRESS_MIRRORED_REPEAT: can only be used with normalized coordinates".
    let repeats = [CL_ADDRESS_REPEAT, CL_ADDRESS_MIRRORED_REPEAT].map(u64::from).contains(&addressing);
    let is_combination = normalized == 1 || (normalized == 0 && !repeats);
    refuse_if(!is_addressing || !is_filter || !is_combination, ClError::INVALID_VALUE)?;
    Ok(Modes { is_normalized: normalized == 1, addressing: addressing as u32, filter: filter as u32 })
}

/// `clCreateSampler`.
pub(super) fn create(
    context: Handle<Context>,
    normalized_coords: u32,
    addressing_mode: u32,
    filter_mode: u32,
) -> ClResult<RawHandle> {
    let context = context.get()?;
    check_support(context)?;
    let modes = check_modes(normalized_coords.into(), addressing_mode.into(), filter_mode.into())?;
    Ok(Sampler::new(context, modes, Vec::new())?.hand_out())
}

/// The modes that a list of properties says, with their defaults.
fn modes(properties: &[u64]) -> ClResult<Modes> {
    let (mut normalized, mut addressing, mut filter) =
        (1, u64::from(CL_ADDRESS_CLAMP), u64::from(CL_FILTER_NEAREST));
    let mut seen = Vec::new();
    for pair in properties.chunks_exact(2) {
        let (name, value) = (pair[0], pair[1]);
        // CL_INVALID_VALUE if the property name in sampler_properties is not a supported property name, if the value
        // specified for a supported property name is not valid, or if the same property name is specified more than
        // once.
        refuse_if(seen.contains(&name), ClError::INVALID_VALUE)?;
        seen.push(name);
        match u32::try_from(name) {
            Ok(CL_SAMPLER_NORMALIZED_COORDS) => normalized = value,
            Ok(CL_SAMPLER_ADDRESSING_MODE) => addressing = value,
            Ok(CL_SAMPLER_FILTER_MODE) => filter = value,
            _ => return Err(ClError::INVALID_VALUE),
        }
    }
    check_modes(normalized, addressing, filter)
}

/// `clCreateSamplerWithProperties`.
pub(super) fn create_with_properties(context: Handle<Context>, properties: In<u64>) -> ClResult<RawHandle> {
    let context = context.get()?;
    check_support(context)?;
    let mut list = properties.properties().unwrap_or_default();
    let modes = modes(&list)?;
    if !properties.is_null() {
        list.push(0);
    }
    Ok(Sampler::new(context, modes, list)?.hand_out())
}

/// `clRetainSampler`.
pub(super) fn retain(sampler: Handle<Sampler>) -> ClResult<()> {
    sampler.get().map(Object::retain)
}

/// `clReleaseSampler`.
pub(super) fn release(sampler: Handle<Sampler>) -> ClResult<()> {
    sampler.get()?.release()
}

/// `clGetSamplerInfo`.
pub(super) fn info(sampler: Handle<Sampler>, param_name: u32) -> ClResult<Info> {
    sampler.get()?.info(param_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencl_sys::CL_SAMPLER_LOD_MIN;

    #[test]
    fn properties_have_defaults_and_are_named_once() {
        let names =
            [CL_SAMPLER_NORMALIZED_COORDS, CL_SAMPLER_ADDRESSING_MODE, CL_SAMPLER_FILTER_MODE].map(u64::from);
        let repeat = u64::from(CL_ADDRESS_REPEAT);
        assert_eq!(
            modes(&[]),
            Ok(Modes { is_normalized: true, addressing: CL_ADDRESS_CLAMP, filter: CL_FILTER_NEAREST })
        );
        assert_eq!(
            modes(&[names[1], repeat, names[2], CL_FILTER_LINEAR.into()]),
            Ok(Modes { is_normalized: true, addressing: CL_ADDRESS_REPEAT, filter: CL_FILTER_LINEAR })
        );
        for bad in [
            &[names[1], repeat, names[1], repeat],
            &[names[0], 2][..],
            &[names[1], repeat, names[0], 0],
            &[names[2], repeat],
            &[names[1], 1 << 32 | repeat],
            &[CL_SAMPLER_LOD_MIN.into(), 0],
        ] {
            assert_eq!(modes(bad), Err(ClError::INVALID_VALUE), "{bad:?}");
        }
    }
}
