/* SPDX-License-Identifier: GPL-2.0 */
/*
 * paragpu's guest driver: what its files know of each other.
 *
 * paragpu_main.c    the device: probe, remove, suspend, what it says of itself
 * paragpu_queue.c   commands on their way to the host and back
 * paragpu_file.c    /dev/paragpuN: contexts and ioctls
 * paragpu_region.c  memory that is shared with the host
 *
 * The host is not trusted with more than the memory it was given. Pages go
 * back to the kernel when the host has answered the command that ends their
 * use, or after a reset of the device, and never for a timeout.
 */
#ifndef _PARAGPU_DRV_H
#define _PARAGPU_DRV_H

#include <linux/completion.h>
#include <linux/idr.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/scatterlist.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/virtio.h>
#include <linux/virtio_gpu.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "uapi/paragpu.h"

/* How long the host may take to answer before a caller gives up. */
#define PARAGPU_ANSWER_TIMEOUT	(30 * HZ)

/* How much of the capset is kept; what programs know of is shorter. */
#define PARAGPU_CAPSET_BYTES	256

/* As many regions as the host allows one vGPU. */
#if BITS_PER_LONG == 64
#define PARAGPU_MAX_REGIONS	16384
#else
#define PARAGPU_MAX_REGIONS	4095	/* what mmap offsets have room for */
#endif

struct paragpu_device;
struct paragpu_file;

/**
 * struct paragpu_cmd - a command, until its last user lets go
 * @node: in one of the device's lists
 * @refs: those of who waits, and one while it is in a list
 * @done: the host has answered, or never will
 * @finish: what to do then, in process context, or NULL
 * @owner: for @finish
 * @file: whose submission this is, or NULL
 * @fence_node: in the file's list of fences
 * @fence: the fence's number, or 0
 * @queued: when it was sent, in jiffies
 * @result: 0 or an errno; valid when @done
 * @answer: the response's type, or 0 for none; valid when @done
 * @used: the response's length; valid when @done
 * @request: what is sent
 * @request_len: its length
 * @response: what comes back
 * @response_len: room for it
 * @n_out: how many of @sg are @request
 * @n_in: how many behind them are @response
 * @sg: where both lie
 */
struct paragpu_cmd {
	struct list_head node;
	struct kref refs;
	struct completion done;
	void (*finish)(struct paragpu_cmd *cmd);
	void *owner;
	struct paragpu_file *file;
	struct list_head fence_node;
	u64 fence;
	unsigned long queued;
	int result;
	u32 answer;
	u32 used;
	void *request;
	size_t request_len;
	void *response;
	size_t response_len;
	unsigned int n_out;
	unsigned int n_in;
	struct scatterlist sg[];
};

/**
 * struct paragpu_device - a device, until its last file is closed
 * @refs: one while the driver is bound, and one of each file
 * @vdev: valid while the driver is bound
 * @control: the control queue; valid while the driver is bound and not frozen
 * @misc: the device node
 * @name: its name
 * @number: the number in @name
 * @wq: for @finish_work and @watch
 * @finish_work: takes care of what is in @finished
 * @watch: complains when the host is silent
 * @context_ids: context ids in use
 * @resource_ids: resource ids in use
 * @lock: guards all that follows, and the fences of files
 * @up: commands can be sent
 * @epoch: counts resets: what was made in an earlier epoch is gone on the host
 * @backlog: commands for which the queue has had no room yet
 * @in_flight: commands that the host has
 * @finished: commands that are done
 * @stranded: regions of which the host did not say that it lets go
 * @told: the current silence has been complained about
 * @bytes: size of all regions
 * @capset: what the host says of itself
 * @capset_bytes: length of that
 * @max_region_bytes: the largest region that the host takes
 */
struct paragpu_device {
	struct kref refs;
	struct virtio_device *vdev;
	struct virtqueue *control;
	struct miscdevice misc;
	char name[24];
	int number;
	struct workqueue_struct *wq;
	struct work_struct finish_work;
	struct delayed_work watch;
	struct ida context_ids;
	struct ida resource_ids;

	spinlock_t lock;	/* for what follows */
	bool up;
	u32 epoch;
	struct list_head backlog;
	struct list_head in_flight;
	struct list_head finished;
	struct list_head stranded;
	bool told;
	u64 bytes;
	u8 capset[PARAGPU_CAPSET_BYTES];
	u32 capset_bytes;
	u64 max_region_bytes;
};

/**
 * struct paragpu_file - an open file: a context on the host
 * @refs: one of the file's, and one of each region and submission
 * @dev: the device
 * @epoch: the device's epoch when the file was opened
 * @context: the context's id
 * @lock: guards what follows up to @leaving
 * @create: the command that made the context, or NULL
 * @destroy: the command that will end it
 * @regions: the regions by handle
 * @leaving: regions that go when the context has ended
 * @bytes: size of the regions; guarded by the device's lock, as what follows
 * @fences: submissions whose fence has not been answered
 * @last_fence: the latest fence's number
 * @refused: the latest fence whose command the host refused, or 0
 * @unanswered: submissions that have not been answered
 * @room: woken when @unanswered falls
 */
struct paragpu_file {
	struct kref refs;
	struct paragpu_device *dev;
	u32 epoch;
	u32 context;

	struct mutex lock;	/* for what follows, up to @leaving */
	struct paragpu_cmd *create;
	struct paragpu_cmd *destroy;
	struct xarray regions;
	struct list_head leaving;

	u64 bytes;
	struct list_head fences;
	u64 last_fence;
	u64 refused;
	unsigned int unanswered;
	wait_queue_head_t room;
};

/**
 * struct paragpu_region - memory that is shared with the host
 * @refs: one of the handle's or of the command that ends it, and one of each
 *	mapping
 * @file: whose it is
 * @node: in the file's @leaving or the device's @stranded
 * @id: the host's name for it
 * @bytes: its size
 * @page_count: the number of pages
 * @pages: the pages
 * @mm: for pinned memory: whose limit it counts against; else NULL
 * @on_host: the host may know the pages
 * @unref: the command that ends that
 */
struct paragpu_region {
	struct kref refs;
	struct paragpu_file *file;
	struct list_head node;
	u32 id;
	u64 bytes;
	unsigned long page_count;
	struct page **pages;
	struct mm_struct *mm;
	bool on_host;
	struct paragpu_cmd *unref;
};

/* paragpu_main.c */
void paragpu_device_put(struct paragpu_device *dev);
int paragpu_charge(struct paragpu_file *file, u64 bytes);
void paragpu_uncharge(struct paragpu_file *file, u64 bytes);

/* paragpu_queue.c */
struct paragpu_cmd *paragpu_cmd_alloc(u32 type, u32 context, size_t request_len,
				      size_t response_len);
void paragpu_cmd_put(struct paragpu_cmd *cmd);
int paragpu_send(struct paragpu_device *dev, u32 epoch, struct paragpu_cmd *cmd);
int paragpu_wait(struct paragpu_cmd *cmd, long timeout);
int paragpu_ask(struct paragpu_device *dev, struct paragpu_cmd *cmd);
void paragpu_queue_init(struct paragpu_device *dev);
int paragpu_queue_start(struct paragpu_device *dev);
void paragpu_queue_stop(struct paragpu_device *dev);

/* paragpu_file.c */
extern const struct file_operations paragpu_fops;
int paragpu_context(struct paragpu_file *file);
void paragpu_file_put(struct paragpu_file *file);

/* paragpu_region.c */
int paragpu_region_create(struct paragpu_file *file,
			  struct paragpu_region_create *arg);
int paragpu_region_pin(struct paragpu_file *file,
		       struct paragpu_region_pin *arg);
int paragpu_region_close(struct paragpu_file *file, u32 handle);
void paragpu_region_give_back(struct paragpu_region *region);
void paragpu_region_put(struct paragpu_region *region);
int paragpu_region_mmap(struct paragpu_file *file, struct vm_area_struct *vma);

#endif /* _PARAGPU_DRV_H */
