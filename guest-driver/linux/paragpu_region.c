// SPDX-License-Identifier: GPL-2.0
/*
 * Regions: memory that is shared with the host. Either pages of the kernel's
 * that programs map, or pages of a program's own that are pinned.
 */

#include <linux/bits.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "paragpu_drv.h"

/* As many extents as the host looks at. */
#define PARAGPU_MAX_EXTENTS	32768

/* Pages are pinned by so many, so that a process can be killed meanwhile. */
#define PARAGPU_PIN_BATCH	1024

/* What a resource is to virtio-gpu: plain bytes. The host ignores it. */
#define PARAGPU_TARGET_BUFFER	0
#define PARAGPU_FORMAT_R8	64
#define PARAGPU_BIND_CUSTOM	BIT(17)

static void paragpu_free_pages(struct paragpu_region *region)
{
	unsigned long i;

	for (i = 0; i < region->page_count && region->pages[i]; i++) {
		__free_page(region->pages[i]);
		if (!(i % 1024))
			cond_resched();
	}
	paragpu_uncharge(region->file, region->bytes);
}

static void paragpu_unpin_pages(struct paragpu_region *region)
{
	unsigned long count = 0;

	while (count < region->page_count && region->pages[count])
		count++;
	unpin_user_pages_dirty_lock(region->pages, count, true);
	account_locked_vm(region->mm, region->page_count, false);
	mmdrop(region->mm);
}

static void paragpu_region_free(struct kref *refs)
{
	struct paragpu_region *region =
		container_of(refs, struct paragpu_region, refs);
	struct paragpu_file *file = region->file;

	if (region->mm)
		paragpu_unpin_pages(region);
	else
		paragpu_free_pages(region);
	kvfree(region->pages);
	paragpu_cmd_put(region->unref);
	ida_free(&file->dev->resource_ids, region->id);
	kfree(region);
	paragpu_file_put(file);
}

/**
 * paragpu_region_put() - let go of a region
 * @region: the region
 *
 * Context: Process context.
 */
void paragpu_region_put(struct paragpu_region *region)
{
	kref_put(&region->refs, paragpu_region_free);
}

/*
 * The host has let go of the pages, or the device has been reset. If neither is
 * certain they stay until a reset.
 */
static void paragpu_region_unreffed(struct paragpu_cmd *cmd)
{
	struct paragpu_region *region = cmd->owner;
	struct paragpu_file *file = region->file;
	struct paragpu_device *dev = file->dev;
	bool gone;

	spin_lock_irq(&dev->lock);
	gone = !cmd->result ||
	       cmd->answer == VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID ||
	       file->epoch != dev->epoch;
	if (!gone)
		list_add_tail(&region->node, &dev->stranded);
	spin_unlock_irq(&dev->lock);
	if (gone)
		paragpu_region_put(region);
}

/**
 * paragpu_region_give_back() - end the host's use of a region
 * @region: the region; the caller's reference goes with the host's answer
 *
 * Context: Process context.
 */
void paragpu_region_give_back(struct paragpu_region *region)
{
	struct paragpu_file *file = region->file;

	if (!region->on_host ||
	    paragpu_send(file->dev, file->epoch, region->unref))
		paragpu_region_put(region);
}

/* A region without pages, which the caller must fill or put. */
static struct paragpu_region *paragpu_region_alloc(struct paragpu_file *file,
						   u64 bytes)
{
	struct virtio_gpu_resource_unref *request;
	struct paragpu_region *region;
	struct paragpu_cmd *unref;
	int id;

	region = kzalloc(sizeof(*region), GFP_KERNEL_ACCOUNT);
	if (!region)
		return ERR_PTR(-ENOMEM);
	region->bytes = bytes;
	region->page_count = bytes >> PAGE_SHIFT;
	region->pages = kvcalloc(region->page_count, sizeof(*region->pages),
				 GFP_KERNEL_ACCOUNT);
	if (!region->pages)
		goto free_region;
	unref = paragpu_cmd_alloc(VIRTIO_GPU_CMD_RESOURCE_UNREF, 0,
				  sizeof(*request),
				  sizeof(struct virtio_gpu_ctrl_hdr));
	if (!unref)
		goto free_pages;
	id = ida_alloc_range(&file->dev->resource_ids, 1, INT_MAX,
			     GFP_KERNEL_ACCOUNT);
	if (id < 0)
		goto put_unref;
	request = unref->request;
	request->resource_id = cpu_to_le32(id);
	unref->finish = paragpu_region_unreffed;
	unref->owner = region;
	kref_init(&region->refs);
	INIT_LIST_HEAD(&region->node);
	kref_get(&file->refs);
	region->file = file;
	region->id = id;
	region->unref = unref;
	return region;

put_unref:
	paragpu_cmd_put(unref);
free_pages:
	kvfree(region->pages);
free_region:
	kfree(region);
	return ERR_PTR(-ENOMEM);
}

/* Zeroed pages, in chunks as large as can be had without trouble. */
static int paragpu_fill(struct paragpu_region *region)
{
	const gfp_t plain = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN;
	unsigned int order = get_order(SZ_2M);
	unsigned long done = 0;

	while (done < region->page_count) {
		struct page *page;
		unsigned int i;

		if (fatal_signal_pending(current))
			return -EINTR;
		while ((1UL << order) > region->page_count - done)
			order--;
		/* Rather an error than somebody else's process ended for memory. */
		page = alloc_pages(order ? plain | __GFP_NORETRY | __GFP_NOMEMALLOC :
					   plain | __GFP_RETRY_MAYFAIL, order);
		if (!page && !order)
			return -ENOMEM;
		if (!page) {
			order--;
			continue;
		}
		if (order)
			split_page(page, order);
		for (i = 0; i < 1U << order; i++)
			region->pages[done++] = page + i;
		cond_resched();
	}
	return 0;
}

static int paragpu_pin(struct paragpu_region *region, unsigned long addr)
{
	unsigned long done = 0;

	while (done < region->page_count) {
		unsigned long batch = min_t(unsigned long, PARAGPU_PIN_BATCH,
					    region->page_count - done);
		int pinned;

		if (fatal_signal_pending(current))
			return -EINTR;
		pinned = pin_user_pages_fast(addr + (done << PAGE_SHIFT), batch,
					     FOLL_WRITE | FOLL_LONGTERM,
					     region->pages + done);
		if (pinned < 0)
			return pinned;
		if (!pinned)
			return -EFAULT;
		done += pinned;
		cond_resched();
	}
	return 0;
}

/* Whether the page follows the one before it in memory. */
static bool paragpu_continues(struct paragpu_region *region, unsigned long i)
{
	return i && page_to_pfn(region->pages[i]) ==
		    page_to_pfn(region->pages[i - 1]) + 1;
}

static struct paragpu_cmd *
paragpu_attach_backing(struct paragpu_region *region)
{
	struct virtio_gpu_resource_attach_backing *request;
	struct virtio_gpu_mem_entry *entry;
	unsigned long i, extents = 0;
	struct paragpu_cmd *cmd;
	u32 bytes = 0;

	for (i = 0; i < region->page_count; i++)
		extents += !paragpu_continues(region, i);
	if (extents > PARAGPU_MAX_EXTENTS)
		return NULL;
	cmd = paragpu_cmd_alloc(VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING, 0,
				sizeof(*request) + extents * sizeof(*entry),
				sizeof(struct virtio_gpu_ctrl_hdr));
	if (!cmd)
		return NULL;
	request = cmd->request;
	request->resource_id = cpu_to_le32(region->id);
	request->nr_entries = cpu_to_le32(extents);
	entry = (struct virtio_gpu_mem_entry *)(request + 1) - 1;
	for (i = 0; i < region->page_count; i++) {
		if (!paragpu_continues(region, i)) {
			entry++;
			entry->addr = cpu_to_le64(page_to_phys(region->pages[i]));
			bytes = 0;
		}
		bytes += PAGE_SIZE;
		entry->length = cpu_to_le32(bytes);
	}
	return cmd;
}

static struct paragpu_cmd *
paragpu_resource_create(struct paragpu_region *region)
{
	struct virtio_gpu_resource_create_3d *request;
	struct paragpu_cmd *cmd;

	cmd = paragpu_cmd_alloc(VIRTIO_GPU_CMD_RESOURCE_CREATE_3D, 0,
				sizeof(*request),
				sizeof(struct virtio_gpu_ctrl_hdr));
	if (!cmd)
		return NULL;
	request = cmd->request;
	request->resource_id = cpu_to_le32(region->id);
	request->target = cpu_to_le32(PARAGPU_TARGET_BUFFER);
	request->format = cpu_to_le32(PARAGPU_FORMAT_R8);
	request->bind = cpu_to_le32(PARAGPU_BIND_CUSTOM);
	/* The command has no field for the size in bytes. */
	request->width = cpu_to_le32(region->bytes);
	request->height = cpu_to_le32(1);
	request->depth = cpu_to_le32(1);
	request->array_size = cpu_to_le32(1);
	return cmd;
}

static struct paragpu_cmd *
paragpu_context_attach(struct paragpu_region *region)
{
	struct virtio_gpu_ctx_resource *request;
	struct paragpu_cmd *cmd;

	cmd = paragpu_cmd_alloc(VIRTIO_GPU_CMD_CTX_ATTACH_RESOURCE,
				region->file->context, sizeof(*request),
				sizeof(struct virtio_gpu_ctrl_hdr));
	if (!cmd)
		return NULL;
	request = cmd->request;
	request->resource_id = cpu_to_le32(region->id);
	return cmd;
}

/* Tells the host of the pages and waits until it has them. */
static int paragpu_tell_host(struct paragpu_region *region)
{
	struct paragpu_file *file = region->file;
	struct paragpu_cmd *cmds[3];
	bool refused = true;
	int i, ret = 0;

	cmds[0] = paragpu_resource_create(region);
	cmds[1] = paragpu_attach_backing(region);
	cmds[2] = paragpu_context_attach(region);
	for (i = 0; i < ARRAY_SIZE(cmds); i++)
		if (!cmds[i])
			ret = -ENOMEM;
	for (i = 0; i < ARRAY_SIZE(cmds) && !ret; i++) {
		ret = paragpu_send(file->dev, file->epoch, cmds[i]);
		if (!ret)
			region->on_host = true;
	}
	for (i = 0; i < ARRAY_SIZE(cmds) && !ret; i++) {
		ret = paragpu_wait(cmds[i], PARAGPU_ANSWER_TIMEOUT);
		/* The first mistake has others in its train. */
		if (cmds[i]->answer < VIRTIO_GPU_RESP_ERR_UNSPEC)
			refused = false;
	}
	if (ret == -EIO || ret == -ENOMEM) {
		/* Is it certain that the host does not have them? */
		for (; i < ARRAY_SIZE(cmds) && refused; i++)
			if (paragpu_wait(cmds[i], PARAGPU_ANSWER_TIMEOUT) >= 0 ||
			    cmds[i]->answer < VIRTIO_GPU_RESP_ERR_UNSPEC)
				refused = false;
		if (refused)
			region->on_host = false;
	}
	for (i = 0; i < ARRAY_SIZE(cmds); i++)
		paragpu_cmd_put(cmds[i]);
	return ret;
}

/*
 * Gives a region that has pages a handle, when the host has it. From then on
 * the region may go at any time: another thread can close what it guesses.
 */
static int paragpu_publish(struct paragpu_region *region, u32 *handle, u32 *id)
{
	int ret;

	ret = paragpu_tell_host(region);
	if (ret)
		return ret;
	*id = region->id;
	ret = xa_alloc(&region->file->regions, handle, region,
		       XA_LIMIT(1, PARAGPU_MAX_REGIONS), GFP_KERNEL_ACCOUNT);
	return ret == -EBUSY ? -ENOSPC : ret;
}

/**
 * paragpu_region_create() - PARAGPU_IOCTL_REGION_CREATE
 * @file: the file
 * @arg: the argument
 *
 * Context: Process context.
 * Return: 0 or an errno.
 */
int paragpu_region_create(struct paragpu_file *file,
			  struct paragpu_region_create *arg)
{
	struct paragpu_region *region;
	int ret;

	if (arg->flags || arg->reserved || !arg->bytes ||
	    arg->bytes > file->dev->max_region_bytes)
		return -EINVAL;
	ret = paragpu_context(file);
	if (ret)
		return ret;
	arg->bytes = PAGE_ALIGN(arg->bytes);
	ret = paragpu_charge(file, arg->bytes);
	if (ret)
		return ret;
	region = paragpu_region_alloc(file, arg->bytes);
	if (IS_ERR(region)) {
		paragpu_uncharge(file, arg->bytes);
		return PTR_ERR(region);
	}
	ret = paragpu_fill(region);
	if (!ret)
		ret = paragpu_publish(region, &arg->handle, &arg->id);
	if (ret) {
		paragpu_region_give_back(region);
		return ret;
	}
	arg->mmap_offset = (u64)arg->handle << 32;
	return 0;
}

/**
 * paragpu_region_pin() - PARAGPU_IOCTL_REGION_PIN
 * @file: the file
 * @arg: the argument
 *
 * Context: Process context.
 * Return: 0 or an errno.
 */
int paragpu_region_pin(struct paragpu_file *file, struct paragpu_region_pin *arg)
{
	struct paragpu_region *region;
	u64 end;
	int ret;

	if (arg->flags || arg->reserved || !arg->bytes ||
	    !PAGE_ALIGNED(arg->addr) || !PAGE_ALIGNED(arg->bytes) ||
	    arg->bytes > file->dev->max_region_bytes)
		return -EINVAL;
	if (check_add_overflow(arg->addr, arg->bytes, &end) || end > ULONG_MAX)
		return -EFAULT;
	ret = paragpu_context(file);
	if (ret)
		return ret;
	ret = account_locked_vm(current->mm, arg->bytes >> PAGE_SHIFT, true);
	if (ret)
		return ret;
	region = paragpu_region_alloc(file, arg->bytes);
	if (IS_ERR(region)) {
		account_locked_vm(current->mm, arg->bytes >> PAGE_SHIFT, false);
		return PTR_ERR(region);
	}
	mmgrab(current->mm);
	region->mm = current->mm;
	ret = paragpu_pin(region, arg->addr);
	if (!ret)
		ret = paragpu_publish(region, &arg->handle, &arg->id);
	if (ret) {
		paragpu_region_give_back(region);
		return ret;
	}
	return 0;
}

/**
 * paragpu_region_close() - PARAGPU_IOCTL_REGION_CLOSE
 * @file: the file
 * @handle: the region's handle
 *
 * Context: Process context.
 * Return: 0 or -ENOENT.
 */
int paragpu_region_close(struct paragpu_file *file, u32 handle)
{
	struct paragpu_region *region;

	/* Whoever looks a region up takes a reference under the same lock. */
	xa_lock(&file->regions);
	region = __xa_erase(&file->regions, handle);
	xa_unlock(&file->regions);
	if (!region)
		return -ENOENT;
	paragpu_region_give_back(region);
	return 0;
}

static void paragpu_vm_open(struct vm_area_struct *vma)
{
	struct paragpu_region *region = vma->vm_private_data;

	kref_get(&region->refs);
}

static void paragpu_vm_close(struct vm_area_struct *vma)
{
	paragpu_region_put(vma->vm_private_data);
}

static const struct vm_operations_struct paragpu_vm_ops = {
	.open = paragpu_vm_open,
	.close = paragpu_vm_close,
};

/**
 * paragpu_region_mmap() - map a region
 * @file: the file
 * @vma: where
 *
 * All pages are there at once: faults would need the region to find them.
 *
 * Context: Process context.
 * Return: 0 or an errno.
 */
int paragpu_region_mmap(struct paragpu_file *file, struct vm_area_struct *vma)
{
	const unsigned int shift = 32 - PAGE_SHIFT;
	unsigned long count = vma_pages(vma);
	struct paragpu_region *region;
	int ret;

	if (!(vma->vm_flags & VM_SHARED) ||
	    vma->vm_pgoff & ((1UL << shift) - 1))
		return -EINVAL;
	xa_lock(&file->regions);
	region = xa_load(&file->regions, vma->vm_pgoff >> shift);
	if (region)
		kref_get(&region->refs);
	xa_unlock(&file->regions);
	if (!region)
		return -EINVAL;
	if (region->mm || count > region->page_count) {
		ret = -EINVAL;
		goto put;
	}
	ret = vm_insert_pages(vma, vma->vm_start, region->pages, &count);
	if (ret)
		goto put;
	vma->vm_private_data = region;
	vma->vm_ops = &paragpu_vm_ops;
	return 0;

put:
	paragpu_region_put(region);
	return ret;
}
