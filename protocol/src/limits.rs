//! Caps on what a guest may ask for. Each says what it stops; the host checks a guest's number against its
//! cap before that number meets an allocator, a loop or a shift.

/// Longest frame in bytes, header included. Bounds the private copy that the host makes of each command.
pub const MAX_FRAME_BYTES: u32 = 64 * 1024;

/// Most inline data bytes in a frame; more goes into a shared region.
pub const MAX_INLINE_BYTES: u32 = 32 * 1024;

/// Most events in one command's wait list. Drivers are at their worst with long ones (PoCL 3.1 takes half a second
/// for 500, and minutes for 2000): one command must not hold an executor up. A driver in the guest gathers longer
/// lists with markers.
pub const MAX_WAIT_EVENTS: u16 = 128;

/// Smallest ring data area in bytes: two of the longest frames, so that one always fits after padding.
pub const MIN_RING_BYTES: u32 = 2 * MAX_FRAME_BYTES;

/// Largest ring data area in bytes.
pub const MAX_RING_BYTES: u32 = 1024 * 1024;

/// Most live objects in one context: each costs the host memory that no OpenCL limit counts.
pub const MAX_OBJECTS: usize = 1 << 20;

/// Most commands of one context in flight, each KiB of inline data counting as one more: the host keeps both until
/// the command is complete. At the limit the host reads no more of the ring until something completes; if everything
/// waits for user events, which only the ring could end, that is a fault.
pub const MAX_IN_FLIGHT: usize = 32 * 1024;

/// Most contexts (guest processes) of one vGPU: each costs a thread and a ring on the host.
pub const MAX_CONTEXTS: usize = 256;

/// Most virtio-gpu resources of one vGPU.
pub const MAX_RESOURCES: usize = 16 * 1024;

/// Largest shared region in bytes: the field that carries the size in `RESOURCE_CREATE_3D` has 32 bits.
pub const MAX_REGION_BYTES: u64 = u32::MAX as u64 & !0xfff;

/// Most memory mappings that one vGPU's shared regions may take on the host. A mainline guest's pages come in
/// extents of one to five pages, one mapping each, and Linux allows a process 65530 mappings in all
/// (`vm.max_map_count`); the rest is for the OpenCL driver.
pub const MAX_MAPPINGS: usize = 32 * 1024;

/// Most images of which each shows the one before: what they share is given back from one to the next, each time a
/// little deeper into the host's stack.
pub const MAX_IMAGE_DEPTH: usize = 16;

/// Longest program source in bytes.
pub const MAX_SOURCE_BYTES: u64 = 64 * 1024 * 1024;

/// Most bytes of program source and intermediate language in one context, with the options and headers' names of the
/// builds. The host keeps them for as long as the program, beside what its compiler makes of them.
pub const MAX_SOURCES_BYTES: usize = 512 * 1024 * 1024;

/// Longest list of devices, of headers or programs, and of options of one compilation or link, in bytes.
pub const MAX_BUILD_LIST_BYTES: u64 = 1024 * 1024;

/// Most links behind each other: programs that are linked of linked programs, and so on. What walks over them takes
/// stack for each.
pub const MAX_LINK_DEPTH: usize = 32;

/// Most devices of the host that a guest is shown.
pub const MAX_DEVICES: usize = 64;

/// Most sub-devices that live in one context, and most that one partition may have: each costs the driver memory, and
/// drivers may keep threads for each.
pub const MAX_SUB_DEVICES: usize = 1024;

/// Most devices in one OpenCL context: drivers build programs, and keep copies of buffers, for each.
pub const MAX_CONTEXT_DEVICES: usize = 1024;

/// Longest answer to one information query in bytes (build logs and sources are the long ones).
pub const MAX_INFO_BYTES: usize = 16 * 1024 * 1024;

/// Most bytes that kernels of one context have printed and that the guest has not fetched: the host keeps them. What
/// comes beyond is lost. As much as the largest `CL_DEVICE_PRINTF_BUFFER_SIZE` that is known (PoCL's), which is all that
/// a device must keep.
pub const MAX_PRINT_BYTES: usize = 16 * 1024 * 1024;

/// Most arguments of one kernel.
pub const MAX_KERNEL_ARGS: u32 = 4096;

/// Builds that one vGPU may have running at once: a compiler costs 100 MB and more each.
pub const MAX_BUILDS: usize = 4;

/// Longest `SUBMIT_3D` payload that is looked at; longer ones are refused.
pub const MAX_CONTROL_BYTES: u32 = 256;

/// Sleeping guest threads (fenced waits held back) per vGPU. The mainline driver stops, uninterruptibly, when
/// all descriptors of its control queue are out, so the host never holds more than this.
pub const MAX_HELD_WAITS: usize = 64;

/// Most shared buffers that a kernel may reach through pointers in memory: the host holds each for every launch.
pub const MAX_EXEC_POINTERS: u32 = 8 * 1024;
