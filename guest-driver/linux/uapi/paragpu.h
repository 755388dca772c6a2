/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/paragpuN: what programs and the paragpu kernel module say to each other.
 *
 * Each open file has one context on the host, made when it is first needed
 * and ended with the file. Fields named reserved, and flags that are not
 * listed, must be 0. Calls that wait for the host can be interrupted by
 * signals. Errors that any call can give, besides those listed:
 *
 *   ENODEV     the device has been reset, suspended or unplugged since the
 *              file was opened: open it anew
 *   ETIMEDOUT  the host does not answer
 *   EIO        the host answered with an error, or with nonsense
 *   ENOMEM     no memory here, or a limit of the host's is reached
 */
#ifndef _UAPI_PARAGPU_H
#define _UAPI_PARAGPU_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct paragpu_capset - what the host says of itself
 * @addr: where to put it
 * @bytes: in: how much room there is; out: how long it is. The beginning is
 *	written if the room is smaller
 * @reserved: 0
 */
struct paragpu_capset {
	__u64 addr;
	__u32 bytes;
	__u32 reserved;
};

/**
 * struct paragpu_region_create - make zeroed memory that is shared with the host
 * @bytes: in: the wanted size; out: the size, a multiple of a page's
 * @flags: 0
 * @handle: out: this file's name for the region
 * @id: out: the host's name for it
 * @reserved: 0
 * @mmap_offset: out: where to mmap(2) the file, MAP_SHARED, to reach it
 *
 * A region that is mapped stays in memory until it is unmapped, even when it
 * is closed.
 *
 * Errors: EINVAL for a size of 0 or too large; ENOSPC for too many regions;
 * EDQUOT if a file, or all of them, have too much memory (parameters of the
 * module).
 */
struct paragpu_region_create {
	__u64 bytes;
	__u32 flags;
	__u32 handle;
	__u32 id;
	__u32 reserved;
	__u64 mmap_offset;
};

/**
 * struct paragpu_region_pin - share memory that the caller has already
 * @addr: its address, a multiple of a page's size
 * @bytes: its size, a multiple of a page's
 * @flags: 0
 * @handle: out: this file's name for the region
 * @id: out: the host's name for it
 * @reserved: 0
 *
 * The pages are writable for the host and stay where they are until the
 * region is closed and the host has let go. They count against RLIMIT_MEMLOCK.
 *
 * Errors: EINVAL for an address or size that is not a multiple of a page's;
 * EFAULT for memory that is not there, not writable, or of a kind that cannot
 * be pinned; ENOMEM beyond RLIMIT_MEMLOCK; ENOSPC for too many regions.
 */
struct paragpu_region_pin {
	__u64 addr;
	__u64 bytes;
	__u32 flags;
	__u32 handle;
	__u32 id;
	__u32 reserved;
};

/**
 * struct paragpu_region_close - give a region up
 * @handle: the region
 * @reserved: 0
 *
 * Errors: ENOENT.
 */
struct paragpu_region_close {
	__u32 handle;
	__u32 reserved;
};

/* Most bytes of one submission. */
#define PARAGPU_SUBMIT_MAX	65536

/* In struct paragpu_submit: the host's answer is something to wait for. */
#define PARAGPU_SUBMIT_FENCE	0x1

/**
 * struct paragpu_submit - send a command to the context
 * @addr: the command
 * @bytes: its length, at most PARAGPU_SUBMIT_MAX
 * @flags: PARAGPU_SUBMIT_FENCE or 0
 * @fence: out: the fence's number, or 0
 *
 * Returns when the command is on its way. What the host makes of it shows in
 * shared memory, and an error in the kernel's log.
 *
 * Errors: EINVAL for a length of 0; E2BIG; EFAULT.
 */
struct paragpu_submit {
	__u64 addr;
	__u32 bytes;
	__u32 flags;
	__u64 fence;
};

/**
 * struct paragpu_wait - wait until the host has answered
 * @fence: the fence's number
 * @timeout_ns: how long at most, from now; 0 just looks
 *
 * Errors: EINVAL for a fence that this file never had, or a negative time;
 * ETIMEDOUT; EINTR; EIO if the host refused the command, and no later one
 * with a fence. A host that was started anew refuses all commands of contexts
 * of before.
 */
struct paragpu_wait {
	__u64 fence;
	__s64 timeout_ns;
};

#define PARAGPU_IOCTL_CAPSET		_IOWR(0xb9, 0x40, struct paragpu_capset)
#define PARAGPU_IOCTL_REGION_CREATE	_IOWR(0xb9, 0x41, struct paragpu_region_create)
#define PARAGPU_IOCTL_REGION_PIN	_IOWR(0xb9, 0x42, struct paragpu_region_pin)
#define PARAGPU_IOCTL_REGION_CLOSE	_IOW(0xb9, 0x43, struct paragpu_region_close)
#define PARAGPU_IOCTL_SUBMIT		_IOWR(0xb9, 0x44, struct paragpu_submit)
#define PARAGPU_IOCTL_WAIT		_IOW(0xb9, 0x45, struct paragpu_wait)

#endif /* _UAPI_PARAGPU_H */
