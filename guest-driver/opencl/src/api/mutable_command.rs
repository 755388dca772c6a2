//! `cl_khr_command_buffer_mutable_dispatch`: changing launches that are recorded.

use std::ffi::c_void;

use opencl_sys::{
    CL_MUTABLE_DISPATCH_ARGUMENTS_KHR, CL_MUTABLE_DISPATCH_ASSERT_NO_ADDITIONAL_WORK_GROUPS_KHR,
    CL_MUTABLE_DISPATCH_ASSERTS_KHR, CL_MUTABLE_DISPATCH_EXEC_INFO_KHR,
    CL_MUTABLE_DISPATCH_GLOBAL_OFFSET_KHR, CL_MUTABLE_DISPATCH_GLOBAL_SIZE_KHR,
    CL_MUTABLE_DISPATCH_LOCAL_SIZE_KHR, CL_MUTABLE_DISPATCH_UPDATABLE_FIELDS_KHR,
    CL_STRUCTURE_TYPE_MUTABLE_DISPATCH_CONFIG_KHR,
};

use crate::api::{kernel, kernel_memory};
use crate::boundary::dispatch_config::DispatchConfig;
use crate::boundary::object::{Handle, Object};
use crate::boundary::pointer::In;
use crate::core::command_buffer::CommandBuffer;
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::extensions::MUTABLE_FIELDS;
use crate::core::info::Info;
use crate::core::kernel::Range;
use crate::core::mutable_command::{MutableCommand, Update};

/// What the properties of a launch say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Properties {
    list: Vec<u64>,
    fields: Option<u64>,
    asserts: Option<u64>,
}

impl Properties {
    /// CL_INVALID_VALUE if values specified in properties are not valid.
    pub(super) fn parse(list: Option<Vec<u64>>) -> ClResult<Properties> {
        let mut properties = Properties::default();
        let Some(mut list) = list else { return Ok(properties) };
        for pair in list.chunks_exact(2) {
            let place = match pair[0] {
                CL_MUTABLE_DISPATCH_UPDATABLE_FIELDS_KHR => &mut properties.fields,
                CL_MUTABLE_DISPATCH_ASSERTS_KHR => &mut properties.asserts,
                _ => return Err(ClError::INVALID_VALUE),
            };
            refuse_if(place.replace(pair[1]).is_some(), ClError::INVALID_VALUE)?;
        }
        refuse_if(properties.fields.unwrap_or(0) & !MUTABLE_FIELDS != 0, ClError::INVALID_VALUE)?;
        check_asserts(properties.asserts.unwrap_or(0))?;
        list.push(0);
        Ok(Properties { list, ..properties })
    }

    /// As the application gave them: with the 0 at the end, or nothing for NULL.
    pub(super) fn list(self) -> Vec<u64> {
        self.list
    }

    /// What may be changed of a launch on this device.
    pub(super) fn fields(&self, device: &Device) -> ClResult<u64> {
        let capabilities = device.mutable_dispatch_capabilities();
        // "If CL_MUTABLE_DISPATCH_UPDATABLE_FIELDS_KHR is not specified then it defaults to the value returned by the
        // CL_DEVICE_MUTABLE_DISPATCH_CAPABILITIES_KHR device query."
        let fields = self.fields.unwrap_or(capabilities);
        // CL_INVALID_OPERATION if the requested CL_MUTABLE_DISPATCH_UPDATABLE_FIELDS_KHR properties are not reported by
        // CL_DEVICE_MUTABLE_DISPATCH_CAPABILITIES_KHR for the device associated with command_queue.
        refuse_if(fields & !capabilities != 0, ClError::INVALID_OPERATION)?;
        Ok(fields)
    }

    /// True if arguments may be set after the launch is recorded, in versions that allow that.
    pub(super) fn defers_arguments(&self) -> bool {
        self.fields.is_some_and(|fields| fields & CL_MUTABLE_DISPATCH_ARGUMENTS_KHR != 0)
    }

    /// True if there will not be more work-groups than were recorded.
    pub(super) fn limits_groups(&self) -> bool {
        self.asserts.is_some_and(|asserts| asserts != 0)
    }
}

/// CL_INVALID_VALUE if values are not valid: of `cl_mutable_dispatch_asserts_khr`. Nothing is made of them here.
pub(super) fn check_asserts(asserts: u64) -> ClResult<()> {
    let known = CL_MUTABLE_DISPATCH_ASSERT_NO_ADDITIONAL_WORK_GROUPS_KHR;
    refuse_if(asserts & !known != 0, ClError::INVALID_VALUE)
}

/// `clGetMutableCommandInfoKHR`.
pub(super) fn info(command: Handle<MutableCommand>, param_name: u32) -> ClResult<Info> {
    command.get()?.info(param_name)
}

/// `clUpdateMutableCommandsKHR`: "otherwise, none of the updates to mutable-command objects are preserved".
pub(super) fn update(
    command_buffer: Handle<CommandBuffer>,
    num_configs: u32,
    config_types: In<u32>,
    configs: In<*const c_void>,
) -> ClResult<()> {
    let buffer = command_buffer.get()?;
    // CL_INVALID_OPERATION if command_buffer has not been finalized. CL_INVALID_OPERATION if command_buffer was not created
    // with the CL_COMMAND_BUFFER_MUTABLE_KHR flag.
    refuse_if(!buffer.is_final() || !buffer.is_mutable(), ClError::INVALID_OPERATION)?;
    // CL_INVALID_VALUE if config_types is NULL and num_configs > 0, or config_types is not NULL and num_configs is 0; the
    // same of configs.
    let is_empty = num_configs == 0;
    let invalid = config_types.is_null() != is_empty || configs.is_null() != is_empty;
    refuse_if(invalid, ClError::INVALID_VALUE)?;
    if is_empty {
        return Ok(());
    }
    // CL_INVALID_VALUE if any element of config_types is not a valid cl_command_buffer_update_type_khr enum.
    let types = config_types.values(num_configs as usize).unwrap_or_default();
    let is_known = |kind: &u32| *kind == CL_STRUCTURE_TYPE_MUTABLE_DISPATCH_CONFIG_KHR;
    refuse_if(!types.iter().all(is_known), ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if any element of configs is NULL.
    let configs = configs.dispatch_configs(num_configs as usize).ok_or(ClError::INVALID_VALUE)?;
    buffer.update(|update| configs.iter().try_for_each(|config| change(buffer, config, update)))
}

/// Adds a change of one command, checked.
fn change(buffer: &Object<CommandBuffer>, config: &DispatchConfig, update: &mut Update) -> ClResult<()> {
    let queue = &buffer.queues()[0];
    // CL_INVALID_MUTABLE_COMMAND_KHR if command is not a valid mutable command object returned from
    // clCommandNDRangeKernelKHR, or created from command_buffer.
    let command = config.command.get()?;
    refuse_if(!command.is_of(buffer), ClError::INVALID_MUTABLE_COMMAND)?;
    let mut launch = update.launch(command);
    let old = launch.given;
    // CL_INVALID_OPERATION if work_dim is not zero and different from the work_dim set on command recording.
    refuse_if(config.work_dim != 0 && config.work_dim != old.dims, ClError::INVALID_OPERATION)?;
    check_fields(command.fields(), config)?;
    let (args, svm_args, exec_infos) = (config.args()?, config.svm_args()?, config.exec_infos()?);
    if config.has_args() || config.has_exec_infos() {
        // Another kernel, so that the old one is there if something is refused.
        let kernel = launch.kernel.duplicate()?;
        for (index, size, value) in args {
            kernel::give_arg(&kernel, index, size, value)?;
        }
        for (index, pointer) in svm_args {
            kernel_memory::give_pointer(&kernel, index, pointer)?;
        }
        for (name, size, value) in exec_infos {
            kernel_memory::give_exec_info(&kernel, name, size, value)?;
        }
        launch.kernel = kernel;
    }
    let new = Range {
        dims: old.dims,
        offset: kernel::sizes(config.global_work_offset, old.dims, 0).unwrap_or(old.offset),
        global: kernel::sizes(config.global_work_size, old.dims, 1).unwrap_or(old.global),
        local: kernel::sizes(config.local_work_size, old.dims, 1).or(old.local),
    };
    if new != old {
        launch.range = kernel::check_range(queue, &launch.kernel, new)?;
        launch.given = new;
        // CL_INVALID_OPERATION if the values of local_work_size and/or global_work_size result in a change to work-group
        // uniformity.
        refuse_if(new.is_uniform() != old.is_uniform(), ClError::INVALID_OPERATION)?;
    }
    update.add(command, launch);
    Ok(())
}

/// CL_INVALID_OPERATION if the property of what shall change was not set on command recording.
fn check_fields(fields: u64, config: &DispatchConfig) -> ClResult<()> {
    let changes = [
        (CL_MUTABLE_DISPATCH_GLOBAL_OFFSET_KHR, !config.global_work_offset.is_null()),
        (CL_MUTABLE_DISPATCH_GLOBAL_SIZE_KHR, !config.global_work_size.is_null()),
        (CL_MUTABLE_DISPATCH_LOCAL_SIZE_KHR, !config.local_work_size.is_null()),
        (CL_MUTABLE_DISPATCH_ARGUMENTS_KHR, config.has_args()),
        (CL_MUTABLE_DISPATCH_EXEC_INFO_KHR, config.has_exec_infos()),
    ];
    let is_refused = changes.iter().any(|(field, is_changed)| *is_changed && fields & field == 0);
    refuse_if(is_refused, ClError::INVALID_OPERATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_known_and_given_once() {
        let (fields, asserts) = (CL_MUTABLE_DISPATCH_UPDATABLE_FIELDS_KHR, CL_MUTABLE_DISPATCH_ASSERTS_KHR);
        let parse = |list: &[u64]| Properties::parse(Some(list.to_vec()));
        for (nothing, list) in [(Properties::parse(None), vec![]), (parse(&[]), vec![0])] {
            let nothing = nothing.unwrap();
            assert!(!nothing.defers_arguments() && !nothing.limits_groups());
            assert_eq!(nothing.list(), list);
        }
        let both = parse(&[asserts, 1, fields, CL_MUTABLE_DISPATCH_ARGUMENTS_KHR]).unwrap();
        assert!(both.defers_arguments() && both.limits_groups());
        assert_eq!(both.list().len(), 5);
        for list in [&[7, 1][..], &[fields, 1, fields, 1], &[fields, 1 << 5], &[asserts, 2]] {
            assert_eq!(parse(list), Err(ClError::INVALID_VALUE), "{list:?}");
        }
    }
}
