// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/paragpuN: each open file is a context on the host.
 */

#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "paragpu_drv.h"

/* Submissions of one file that the host may leave unanswered: their memory. */
#define PARAGPU_MAX_UNANSWERED	128

static bool paragpu_is_live(struct paragpu_file *file)
{
	struct paragpu_device *dev = file->dev;

	return READ_ONCE(dev->up) && READ_ONCE(dev->epoch) == file->epoch;
}

static void paragpu_file_free(struct kref *refs)
{
	struct paragpu_file *file =
		container_of(refs, struct paragpu_file, refs);

	paragpu_cmd_put(file->create);
	paragpu_cmd_put(file->destroy);
	ida_free(&file->dev->context_ids, file->context);
	paragpu_device_put(file->dev);
	kfree(file);
}

/**
 * paragpu_file_put() - let go of a file
 * @file: the file
 *
 * Context: Process context.
 */
void paragpu_file_put(struct paragpu_file *file)
{
	kref_put(&file->refs, paragpu_file_free);
}

/* The host has no context any more that could use the regions. */
static void paragpu_give_back_regions(struct paragpu_file *file)
{
	struct paragpu_region *region, *next;

	list_for_each_entry_safe(region, next, &file->leaving, node) {
		list_del_init(&region->node);
		paragpu_region_give_back(region);
	}
}

static void paragpu_context_ended(struct paragpu_cmd *cmd)
{
	struct paragpu_file *file = cmd->owner;

	paragpu_give_back_regions(file);
	paragpu_file_put(file);
}

static int paragpu_open(struct inode *inode, struct file *filp)
{
	/* Held by misc_open(), which excludes misc_deregister(). */
	struct paragpu_device *dev = container_of(filp->private_data,
						  struct paragpu_device, misc);
	struct paragpu_file *file;
	int id, ret;

	if ((filp->f_flags & O_ACCMODE) != O_RDWR)
		return -EACCES;
	file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);
	if (!file)
		return -ENOMEM;
	id = ida_alloc_range(&dev->context_ids, 1, INT_MAX, GFP_KERNEL_ACCOUNT);
	if (id < 0) {
		ret = id;
		goto free_file;
	}
	file->context = id;
	file->destroy = paragpu_cmd_alloc(VIRTIO_GPU_CMD_CTX_DESTROY, id,
					  sizeof(struct virtio_gpu_ctx_destroy),
					  sizeof(struct virtio_gpu_ctrl_hdr));
	if (!file->destroy) {
		ret = -ENOMEM;
		goto free_id;
	}
	file->destroy->finish = paragpu_context_ended;
	file->destroy->owner = file;
	kref_init(&file->refs);
	mutex_init(&file->lock);
	xa_init_flags(&file->regions, XA_FLAGS_ALLOC1);
	INIT_LIST_HEAD(&file->leaving);
	INIT_LIST_HEAD(&file->fences);
	init_waitqueue_head(&file->room);
	file->dev = dev;

	spin_lock_irq(&dev->lock);
	file->epoch = dev->epoch;
	ret = dev->up ? 0 : -ENODEV;
	spin_unlock_irq(&dev->lock);
	if (ret)
		goto put_destroy;
	kref_get(&dev->refs);
	filp->private_data = file;
	return nonseekable_open(inode, filp);

put_destroy:
	paragpu_cmd_put(file->destroy);
free_id:
	ida_free(&dev->context_ids, id);
free_file:
	kfree(file);
	return ret;
}

/*
 * Nobody waits here: the context ends first, so that the host lets go of the
 * regions at once, and then they do.
 */
static int paragpu_release(struct inode *inode, struct file *filp)
{
	struct paragpu_file *file = filp->private_data;
	struct paragpu_region *region;
	unsigned long handle;
	bool refused;

	xa_for_each(&file->regions, handle, region)
		list_add_tail(&region->node, &file->leaving);
	xa_destroy(&file->regions);

	refused = file->create && completion_done(&file->create->done) &&
		  file->create->result;
	if (file->create && !refused) {
		kref_get(&file->refs);
		if (!paragpu_send(file->dev, file->epoch, file->destroy))
			goto out;
		paragpu_file_put(file);
	}
	paragpu_give_back_regions(file);
out:
	paragpu_file_put(file);
	return 0;
}

static struct paragpu_cmd *paragpu_new_context(struct paragpu_file *file)
{
	struct virtio_gpu_ctx_create *request;
	char name[TASK_COMM_LEN];
	struct paragpu_cmd *cmd;
	int ret;

	cmd = paragpu_cmd_alloc(VIRTIO_GPU_CMD_CTX_CREATE, file->context,
				sizeof(*request),
				sizeof(struct virtio_gpu_ctrl_hdr));
	if (!cmd)
		return ERR_PTR(-ENOMEM);
	request = cmd->request;
	get_task_comm(name, current);
	request->nlen = cpu_to_le32(strlen(name));
	memcpy(request->debug_name, name, sizeof(name));
	ret = paragpu_send(file->dev, file->epoch, cmd);
	if (ret) {
		paragpu_cmd_put(cmd);
		return ERR_PTR(ret);
	}
	return cmd;
}

/**
 * paragpu_context() - make sure that the file has a context on the host
 * @file: the file
 *
 * Context: Process context.
 * Return: 0 or an errno.
 */
int paragpu_context(struct paragpu_file *file)
{
	struct paragpu_cmd *cmd;
	int ret;

	if (mutex_lock_interruptible(&file->lock))
		return -ERESTARTSYS;
	cmd = file->create;
	/* What the host has refused may be had later. */
	if (cmd && completion_done(&cmd->done) && cmd->result) {
		paragpu_cmd_put(cmd);
		file->create = NULL;
	}
	if (!file->create) {
		cmd = paragpu_new_context(file);
		if (IS_ERR(cmd)) {
			mutex_unlock(&file->lock);
			return PTR_ERR(cmd);
		}
		file->create = cmd;
	}
	kref_get(&cmd->refs);
	mutex_unlock(&file->lock);
	ret = paragpu_wait(cmd, PARAGPU_ANSWER_TIMEOUT);
	paragpu_cmd_put(cmd);
	return ret;
}

static int paragpu_capset(struct paragpu_file *file, struct paragpu_capset *arg)
{
	struct paragpu_device *dev = file->dev;
	u8 capset[PARAGPU_CAPSET_BYTES];
	u32 bytes;

	if (arg->reserved)
		return -EINVAL;
	spin_lock_irq(&dev->lock);
	bytes = dev->capset_bytes;
	memcpy(capset, dev->capset, bytes);
	spin_unlock_irq(&dev->lock);
	if (copy_to_user(u64_to_user_ptr(arg->addr), capset,
			 min(arg->bytes, bytes)))
		return -EFAULT;
	arg->bytes = bytes;
	return 0;
}

static bool paragpu_has_room(struct paragpu_file *file)
{
	return READ_ONCE(file->unanswered) < PARAGPU_MAX_UNANSWERED ||
	       !paragpu_is_live(file);
}

/* Waits until the host has answered enough of this file's submissions. */
static int paragpu_wait_for_room(struct paragpu_file *file)
{
	long left;

	left = wait_event_interruptible_timeout(file->room,
						paragpu_has_room(file),
						PARAGPU_ANSWER_TIMEOUT);
	if (left < 0)
		return left;
	return left ? 0 : -ETIMEDOUT;
}

static int paragpu_submit(struct paragpu_file *file, struct paragpu_submit *arg)
{
	struct virtio_gpu_cmd_submit *request;
	struct paragpu_cmd *cmd;
	int ret;

	if (arg->flags & ~PARAGPU_SUBMIT_FENCE || !arg->bytes)
		return -EINVAL;
	if (arg->bytes > PARAGPU_SUBMIT_MAX)
		return -E2BIG;
	ret = paragpu_context(file);
	if (!ret)
		ret = paragpu_wait_for_room(file);
	if (ret)
		return ret;
	cmd = paragpu_cmd_alloc(VIRTIO_GPU_CMD_SUBMIT_3D, file->context,
				sizeof(*request) + arg->bytes,
				sizeof(struct virtio_gpu_ctrl_hdr));
	if (!cmd)
		return -ENOMEM;
	request = cmd->request;
	request->size = cpu_to_le32(arg->bytes);
	if (copy_from_user(request + 1, u64_to_user_ptr(arg->addr), arg->bytes)) {
		ret = -EFAULT;
		goto put;
	}
	kref_get(&file->refs);
	cmd->file = file;
	if (arg->flags & PARAGPU_SUBMIT_FENCE) {
		spin_lock_irq(&file->dev->lock);
		cmd->fence = ++file->last_fence;
		spin_unlock_irq(&file->dev->lock);
		request->hdr.flags = cpu_to_le32(VIRTIO_GPU_FLAG_FENCE);
		request->hdr.fence_id = cpu_to_le64(cmd->fence);
	}
	arg->fence = cmd->fence;
	ret = paragpu_send(file->dev, file->epoch, cmd);
put:
	paragpu_cmd_put(cmd);
	return ret;
}

/* The submission whose fence this is, if it has not been answered. */
static struct paragpu_cmd *paragpu_pending_fence(struct paragpu_file *file,
						 u64 fence)
{
	struct paragpu_cmd *cmd;

	lockdep_assert_held(&file->dev->lock);
	list_for_each_entry(cmd, &file->fences, fence_node) {
		if (cmd->fence == fence) {
			kref_get(&cmd->refs);
			return cmd;
		}
	}
	return NULL;
}

static int paragpu_wait_for_fence(struct paragpu_file *file,
				  struct paragpu_wait *arg)
{
	struct paragpu_device *dev = file->dev;
	struct paragpu_cmd *cmd = NULL;
	unsigned long timeout;
	int ret = 0;

	if (arg->timeout_ns < 0)
		return -EINVAL;
	spin_lock_irq(&dev->lock);
	if (!arg->fence || arg->fence > file->last_fence)
		ret = -EINVAL;
	else
		cmd = paragpu_pending_fence(file, arg->fence);
	if (!ret && !cmd && arg->fence == file->refused)
		ret = -EIO;
	spin_unlock_irq(&dev->lock);
	if (!cmd)
		return ret;
	timeout = nsecs_to_jiffies(arg->timeout_ns);
	if (arg->timeout_ns)
		timeout = min_t(unsigned long, timeout + 1, MAX_SCHEDULE_TIMEOUT - 1);
	ret = paragpu_wait(cmd, timeout);
	paragpu_cmd_put(cmd);
	/* The time would start anew. */
	return ret == -ERESTARTSYS ? -EINTR : ret;
}

union paragpu_arg {
	struct paragpu_capset capset;
	struct paragpu_region_create create;
	struct paragpu_region_pin pin;
	struct paragpu_region_close close;
	struct paragpu_submit submit;
	struct paragpu_wait wait;
};

static int paragpu_do(struct paragpu_file *file, unsigned int cmd,
		      union paragpu_arg *arg)
{
	/* The only thing that can be done to a lost file. */
	if (cmd == PARAGPU_IOCTL_REGION_CLOSE) {
		if (arg->close.reserved)
			return -EINVAL;
		return paragpu_region_close(file, arg->close.handle);
	}
	if (!paragpu_is_live(file))
		return -ENODEV;
	switch (cmd) {
	case PARAGPU_IOCTL_CAPSET:
		return paragpu_capset(file, &arg->capset);
	case PARAGPU_IOCTL_REGION_CREATE:
		return paragpu_region_create(file, &arg->create);
	case PARAGPU_IOCTL_REGION_PIN:
		return paragpu_region_pin(file, &arg->pin);
	case PARAGPU_IOCTL_SUBMIT:
		return paragpu_submit(file, &arg->submit);
	case PARAGPU_IOCTL_WAIT:
		return paragpu_wait_for_fence(file, &arg->wait);
	default:
		return -ENOTTY;
	}
}

/* Nobody will learn of what was made. */
static void paragpu_undo(struct paragpu_file *file, unsigned int cmd,
			 const union paragpu_arg *arg)
{
	if (cmd == PARAGPU_IOCTL_REGION_CREATE)
		paragpu_region_close(file, arg->create.handle);
	else if (cmd == PARAGPU_IOCTL_REGION_PIN)
		paragpu_region_close(file, arg->pin.handle);
}

static long paragpu_ioctl(struct file *filp, unsigned int cmd,
			  unsigned long user)
{
	struct paragpu_file *file = filp->private_data;
	void __user *from = (void __user *)user;
	union paragpu_arg arg;
	int ret;

	if (_IOC_TYPE(cmd) != _IOC_TYPE(PARAGPU_IOCTL_CAPSET) ||
	    _IOC_SIZE(cmd) > sizeof(arg))
		return -ENOTTY;
	memset(&arg, 0, sizeof(arg));
	if (copy_from_user(&arg, from, _IOC_SIZE(cmd)))
		return -EFAULT;
	ret = paragpu_do(file, cmd, &arg);
	if (!ret && (_IOC_DIR(cmd) & _IOC_READ) &&
	    copy_to_user(from, &arg, _IOC_SIZE(cmd))) {
		paragpu_undo(file, cmd, &arg);
		ret = -EFAULT;
	}
	return ret;
}

static int paragpu_mmap(struct file *filp, struct vm_area_struct *vma)
{
	struct paragpu_file *file = filp->private_data;

	if (!paragpu_is_live(file))
		return -ENODEV;
	return paragpu_region_mmap(file, vma);
}

const struct file_operations paragpu_fops = {
	.owner = THIS_MODULE,
	.open = paragpu_open,
	.release = paragpu_release,
	.unlocked_ioctl = paragpu_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = paragpu_mmap,
};
