//! The part of virtio-gpu's control queue that paragpu uses (virtio 1.2, section 5.7.6), for the device and for
//! drivers that have no kernel between them and the queue.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `VIRTIO_GPU_F_VIRGL`: 3D commands, capsets and contexts.
pub const F_VIRGL: u64 = 1 << 0;
/// `VIRTIO_GPU_F_EDID`: `GET_EDID`.
pub const F_EDID: u64 = 1 << 1;

/// Queue index of the control queue.
pub const CONTROL_QUEUE: usize = 0;
/// Number of queues: control, then cursor.
pub const QUEUES: usize = 2;

/// `VIRTIO_GPU_FLAG_FENCE` in [`Header::flags`]: the response means that the command's effects are there.
pub const FLAG_FENCE: u32 = 1 << 0;
/// `VIRTIO_GPU_FLAG_INFO_RING_IDX`: `ring_idx` is valid.
pub const FLAG_INFO_RING_IDX: u32 = 1 << 1;

/// Number of display outputs in `GET_DISPLAY_INFO`'s answer.
const MAX_SCANOUTS: usize = 16;

macro_rules! numbers {
    ($(#[$doc:meta])* $enum:ident { $( $(#[$variant_doc:meta])* $name:ident = $code:literal, )* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $enum {
            $( $(#[$variant_doc])* $name = $code, )*
        }

        impl $enum {
            /// All of them.
            pub const ALL: &'static [$enum] = &[ $( $enum::$name, )* ];

            /// The one with this number.
            pub fn from_wire(number: u32) -> Option<$enum> {
                match number {
                    $( $code => Some($enum::$name), )*
                    _ => None,
                }
            }
        }
    };
}

numbers! {
    /// `VIRTIO_GPU_CMD_…`, as in the specification.
    Request {
        /// Display outputs.
        GetDisplayInfo = 0x0100,
        /// 2D resource.
        ResourceCreate2d = 0x0101,
        /// End of a resource.
        ResourceUnref = 0x0102,
        /// Connects a resource to an output.
        SetScanout = 0x0103,
        /// Shows a resource.
        ResourceFlush = 0x0104,
        /// Copies guest pages to a 2D resource.
        TransferToHost2d = 0x0105,
        /// Gives a resource guest pages.
        ResourceAttachBacking = 0x0106,
        /// Takes them away.
        ResourceDetachBacking = 0x0107,
        /// Id, version and size of a capset.
        GetCapsetInfo = 0x0108,
        /// Contents of a capset.
        GetCapset = 0x0109,
        /// Monitor description.
        GetEdid = 0x010a,
        /// Shares a resource by a UUID.
        ResourceAssignUuid = 0x010b,
        /// Blob resource.
        ResourceCreateBlob = 0x010c,
        /// Connects a blob to an output.
        SetScanoutBlob = 0x010d,
        /// New context.
        CtxCreate = 0x0200,
        /// End of a context.
        CtxDestroy = 0x0201,
        /// Lets a context use a resource.
        CtxAttachResource = 0x0202,
        /// Ends that.
        CtxDetachResource = 0x0203,
        /// 3D resource.
        ResourceCreate3d = 0x0204,
        /// Copies guest pages to a 3D resource.
        TransferToHost3d = 0x0205,
        /// Copies a 3D resource to guest pages.
        TransferFromHost3d = 0x0206,
        /// Commands of a context: see [`control`](crate::control).
        Submit3d = 0x0207,
        /// Maps a blob into the host-visible region.
        ResourceMapBlob = 0x0208,
        /// Unmaps it.
        ResourceUnmapBlob = 0x0209,
        /// Shows a cursor.
        UpdateCursor = 0x0300,
        /// Moves a cursor.
        MoveCursor = 0x0301,
    }
}

numbers! {
    /// `VIRTIO_GPU_RESP_…`, as in the specification.
    Response {
        /// Done, nothing to say.
        OkNodata = 0x1100,
        /// Answer to `GetDisplayInfo`.
        OkDisplayInfo = 0x1101,
        /// Answer to `GetCapsetInfo`.
        OkCapsetInfo = 0x1102,
        /// Answer to `GetCapset`.
        OkCapset = 0x1103,
        /// Answer to `GetEdid`.
        OkEdid = 0x1104,
        /// Something else went wrong.
        ErrUnspec = 0x1200,
        /// No memory, or a limit is reached.
        ErrOutOfMemory = 0x1201,
        /// No such output.
        ErrInvalidScanoutId = 0x1202,
        /// No such resource, or the id is taken.
        ErrInvalidResourceId = 0x1203,
        /// No such context, or the id is taken.
        ErrInvalidContextId = 0x1204,
        /// Malformed or unsupported.
        ErrInvalidParameter = 0x1205,
    }
}

macro_rules! wire_structs {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$field_doc:meta])* $field:ident: $type:ty, )* } )*) => {
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
        )*
    };
}

wire_structs! {
    /// `struct virtio_gpu_config`.
    Config {
        /// Pending events.
        events_read: U32,
        /// Written to acknowledge events.
        events_clear: U32,
        /// Number of outputs.
        num_scanouts: U32,
        /// Number of capsets.
        num_capsets: U32,
    }

    /// `struct virtio_gpu_ctrl_hdr`: starts every request and every response.
    Header {
        /// Number of a [`Request`] or [`Response`].
        kind: U32,
        /// `FLAG_…`.
        flags: U32,
        /// The guest's fence number.
        fence_id: U64,
        /// The context.
        ctx_id: U32,
        /// Timeline, where negotiated.
        ring_idx: u8,
        /// Padding.
        padding: [u8; 3],
    }

    /// `struct virtio_gpu_rect`.
    Rect {
        /// Left edge in pixels.
        x: U32,
        /// Top edge in pixels.
        y: U32,
        /// Width in pixels.
        width: U32,
        /// Height in pixels.
        height: U32,
    }

    /// `struct virtio_gpu_display_one`.
    Display {
        /// Position and size.
        rect: Rect,
        /// 1 if a monitor is there.
        enabled: U32,
        /// Zero.
        flags: U32,
    }

    /// `struct virtio_gpu_resp_display_info`, behind the header.
    DisplayInfo {
        /// The outputs.
        displays: [Display; MAX_SCANOUTS],
    }

    /// `struct virtio_gpu_get_edid`, behind the header.
    GetEdid {
        /// Output number.
        scanout: U32,
        /// Padding.
        padding: U32,
    }

    /// `struct virtio_gpu_resource_create_2d`, behind the header.
    ResourceCreate2d {
        /// New id.
        resource_id: U32,
        /// Pixel format.
        format: U32,
        /// Width in pixels.
        width: U32,
        /// Height in pixels.
        height: U32,
    }

    /// `struct virtio_gpu_resource_create_3d`, behind the header. paragpu's regions are such resources with
    /// their size in bytes in `width`; every other field is free.
    ResourceCreate3d {
        /// New id.
        resource_id: U32,
        /// Gallium target.
        target: U32,
        /// Pixel format.
        format: U32,
        /// Gallium bind flags.
        bind: U32,
        /// Size in bytes.
        width: U32,
        /// Height.
        height: U32,
        /// Depth.
        depth: U32,
        /// Array length.
        array_size: U32,
        /// Mip levels.
        last_level: U32,
        /// Samples.
        nr_samples: U32,
        /// Flags.
        flags: U32,
        /// Padding.
        padding: U32,
    }

    /// Requests that name one resource (`RESOURCE_UNREF`, `RESOURCE_DETACH_BACKING`, `CTX_ATTACH_RESOURCE`,
    /// `CTX_DETACH_RESOURCE`), behind the header.
    ResourceRef {
        /// The resource.
        resource_id: U32,
        /// Padding.
        padding: U32,
    }

    /// `struct virtio_gpu_resource_attach_backing`, behind the header; [`MemEntry`] follow.
    ResourceAttachBacking {
        /// The resource.
        resource_id: U32,
        /// Number of entries.
        nr_entries: U32,
    }

    /// `struct virtio_gpu_mem_entry`: an extent of guest memory.
    MemEntry {
        /// Guest-physical address.
        addr: U64,
        /// Length in bytes.
        length: U32,
        /// Padding.
        padding: U32,
    }

    /// `struct virtio_gpu_get_capset_info`, behind the header.
    GetCapsetInfo {
        /// Number of the capset, from 0.
        capset_index: U32,
        /// Padding.
        padding: U32,
    }

    /// `struct virtio_gpu_resp_capset_info`, behind the header.
    CapsetInfo {
        /// Capset id.
        capset_id: U32,
        /// Highest version.
        capset_max_version: U32,
        /// Size in bytes.
        capset_max_size: U32,
        /// Padding.
        padding: U32,
    }

    /// `struct virtio_gpu_get_capset`, behind the header.
    GetCapset {
        /// Capset id.
        capset_id: U32,
        /// Version.
        capset_version: U32,
    }

    /// `struct virtio_gpu_ctx_create`, behind the header.
    CtxCreate {
        /// Length of the name.
        nlen: U32,
        /// Capset of the context, where negotiated.
        context_init: U32,
        /// Debug name: the guest process's.
        debug_name: [[u8; 32]; 2],
    }

    /// `struct virtio_gpu_cmd_submit`, behind the header; `size` bytes follow.
    Submit3d {
        /// Length of the payload.
        size: U32,
        /// Padding.
        padding: U32,
    }
}
