// SPDX-License-Identifier: GPL-2.0
/*
 * Commands on their way to the host and back.
 *
 * Sending never sleeps and never fails for want of room: what the queue has no
 * room for waits in a backlog, so that whatever gives pages back can always be
 * sent. Answers are taken in the queue's interrupt, which wakes who waits;
 * everything else is done in a work item.
 */

#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>
#include <linux/vmalloc.h>

#include "paragpu_drv.h"

/* A host that has not answered for so long is worth a line in the log. */
#define PARAGPU_SILENCE		(60 * HZ)
#define PARAGPU_WATCH_INTERVAL	(20 * HZ)

/* Most pieces that memory of so many bytes lies in. */
static size_t paragpu_most_pieces(size_t bytes)
{
	return bytes / PAGE_SIZE + 2;
}

/* Lists where memory from kvmalloc lies; returns the number of pieces. */
static unsigned int paragpu_list_pieces(struct scatterlist *sg, void *at,
					size_t bytes)
{
	unsigned int count = 0;

	sg_init_table(sg, paragpu_most_pieces(bytes));
	if (!is_vmalloc_addr(at)) {
		sg_set_buf(sg, at, bytes);
		count = 1;
		bytes = 0;
	}
	while (bytes) {
		size_t piece = min_t(size_t, bytes,
				     PAGE_SIZE - offset_in_page(at));

		sg_set_page(&sg[count++], vmalloc_to_page(at), piece,
			    offset_in_page(at));
		at += piece;
		bytes -= piece;
	}
	sg_unmark_end(&sg[count - 1]);
	sg_mark_end(&sg[count - 1]);
	return count;
}

/**
 * paragpu_cmd_alloc() - make a command
 * @type: its number
 * @context: the context it is for, or 0
 * @request_len: its length
 * @response_len: how long an answer may be
 *
 * Context: Process context.
 * Return: a command of zeroes but for its header, or NULL without memory.
 */
struct paragpu_cmd *paragpu_cmd_alloc(u32 type, u32 context, size_t request_len,
				      size_t response_len)
{
	size_t response_at = ALIGN(request_len, 8);
	size_t pieces = paragpu_most_pieces(request_len) +
			paragpu_most_pieces(response_len);
	struct virtio_gpu_ctrl_hdr *header;
	struct paragpu_cmd *cmd;

	cmd = kzalloc(struct_size(cmd, sg, pieces), GFP_KERNEL_ACCOUNT);
	if (!cmd)
		return NULL;
	cmd->request = kvzalloc(response_at + response_len, GFP_KERNEL_ACCOUNT);
	if (!cmd->request) {
		kfree(cmd);
		return NULL;
	}
	cmd->request_len = request_len;
	cmd->response = cmd->request + response_at;
	cmd->response_len = response_len;
	cmd->n_out = paragpu_list_pieces(cmd->sg, cmd->request, request_len);
	cmd->n_in = paragpu_list_pieces(cmd->sg + cmd->n_out, cmd->response,
					response_len);
	kref_init(&cmd->refs);
	init_completion(&cmd->done);
	INIT_LIST_HEAD(&cmd->node);
	INIT_LIST_HEAD(&cmd->fence_node);
	header = cmd->request;
	header->type = cpu_to_le32(type);
	header->ctx_id = cpu_to_le32(context);
	return cmd;
}

static void paragpu_cmd_free(struct kref *refs)
{
	struct paragpu_cmd *cmd = container_of(refs, struct paragpu_cmd, refs);

	if (cmd->file)
		paragpu_file_put(cmd->file);
	kvfree(cmd->request);
	kfree(cmd);
}

/**
 * paragpu_cmd_put() - let go of a command
 * @cmd: the command, or NULL
 *
 * Context: Process context.
 */
void paragpu_cmd_put(struct paragpu_cmd *cmd)
{
	if (cmd)
		kref_put(&cmd->refs, paragpu_cmd_free);
}

/* The command is over: wakes who waits and leaves the rest to the work item. */
static void paragpu_cmd_over(struct paragpu_device *dev,
			     struct paragpu_cmd *cmd, int result)
{
	lockdep_assert_held(&dev->lock);
	cmd->result = result;
	if (!list_empty(&cmd->fence_node))
		list_del_init(&cmd->fence_node);
	if (cmd->file) {
		cmd->file->unanswered--;
		if (cmd->fence && result)
			cmd->file->refused = cmd->fence;
		wake_up(&cmd->file->room);
	}
	complete_all(&cmd->done);
	list_move_tail(&cmd->node, &dev->finished);
	queue_work(dev->wq, &dev->finish_work);
}

static void paragpu_finish_work(struct work_struct *work)
{
	struct paragpu_device *dev =
		container_of(work, struct paragpu_device, finish_work);
	struct paragpu_cmd *cmd;

	for (;;) {
		spin_lock_irq(&dev->lock);
		cmd = list_first_entry_or_null(&dev->finished,
					       struct paragpu_cmd, node);
		if (cmd)
			list_del_init(&cmd->node);
		spin_unlock_irq(&dev->lock);
		if (!cmd)
			break;
		if (cmd->finish)
			cmd->finish(cmd);
		paragpu_cmd_put(cmd);
		cond_resched();
	}
}

/* What the host's answer means to who asked. */
static int paragpu_errno(u32 answer)
{
	if (answer >= VIRTIO_GPU_RESP_OK_NODATA &&
	    answer < VIRTIO_GPU_RESP_ERR_UNSPEC)
		return 0;
	if (answer == VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY)
		return -ENOMEM;
	return -EIO;
}

static void paragpu_answered(struct paragpu_device *dev,
			     struct paragpu_cmd *cmd, u32 used)
{
	const struct virtio_gpu_ctrl_hdr *request = cmd->request;
	const struct virtio_gpu_ctrl_hdr *response = cmd->response;
	u32 type = le32_to_cpu(request->type);
	int result;

	dev->told = false;
	if (used < sizeof(*response) || used > cmd->response_len) {
		dev_warn_ratelimited(&dev->vdev->dev,
				     "answer to command %#x is %u bytes long, not %zu to %zu\n",
				     type, used, sizeof(*response),
				     cmd->response_len);
		result = -EIO;
	} else {
		cmd->used = used;
		cmd->answer = le32_to_cpu(READ_ONCE(response->type));
		result = paragpu_errno(cmd->answer);
		if (result)
			dev_warn_ratelimited(&dev->vdev->dev,
					     "command %#x of context %u got answer %#x\n",
					     type, le32_to_cpu(request->ctx_id),
					     cmd->answer);
	}
	paragpu_cmd_over(dev, cmd, result);
}

/* Who waits need not any more. */
static void paragpu_cmd_hopeless(struct paragpu_cmd *cmd)
{
	cmd->result = -ENODEV;
	complete_all(&cmd->done);
	if (cmd->file)
		wake_up(&cmd->file->room);
}

/*
 * The queue is of no use any more. The host may still write to memory that it
 * has, so nothing is given back before a reset.
 */
static void paragpu_queue_broken(struct paragpu_device *dev)
{
	struct paragpu_cmd *cmd;

	lockdep_assert_held(&dev->lock);
	dev_err_ratelimited(&dev->vdev->dev,
			    "the host broke the queue; unbind and bind the driver to start anew\n");
	dev->up = false;
	list_for_each_entry(cmd, &dev->in_flight, node)
		paragpu_cmd_hopeless(cmd);
	list_for_each_entry(cmd, &dev->backlog, node)
		paragpu_cmd_hopeless(cmd);
}

/* Moves commands from the backlog to the queue. */
static void paragpu_pump(struct paragpu_device *dev)
{
	struct paragpu_cmd *cmd, *next;
	bool added = false;

	lockdep_assert_held(&dev->lock);
	list_for_each_entry_safe(cmd, next, &dev->backlog, node) {
		struct scatterlist *sgs[] = { cmd->sg, cmd->sg + cmd->n_out };
		int ret;

		ret = virtqueue_add_sgs(dev->control, sgs, 1, 1, cmd,
					GFP_ATOMIC);
		if (!ret) {
			list_move_tail(&cmd->node, &dev->in_flight);
			added = true;
			continue;
		}
		/* There will be room when something comes back. */
		if (ret != -EIO && !list_empty(&dev->in_flight))
			break;
		if (virtqueue_is_broken(dev->control)) {
			paragpu_queue_broken(dev);
			return;
		}
		/* Too long for this queue. */
		paragpu_cmd_over(dev, cmd, ret);
	}
	if (added) {
		virtqueue_kick(dev->control);
		queue_delayed_work(dev->wq, &dev->watch, PARAGPU_WATCH_INTERVAL);
	}
}

static void paragpu_control_done(struct virtqueue *vq)
{
	struct paragpu_device *dev = vq->vdev->priv;
	struct paragpu_cmd *cmd;
	unsigned long flags;
	u32 used;

	spin_lock_irqsave(&dev->lock, flags);
	while (dev->up) {
		virtqueue_disable_cb(vq);
		while ((cmd = virtqueue_get_buf(vq, &used)))
			paragpu_answered(dev, cmd, used);
		if (virtqueue_is_broken(vq))
			paragpu_queue_broken(dev);
		else if (virtqueue_enable_cb(vq))
			break;
	}
	if (dev->up)
		paragpu_pump(dev);
	spin_unlock_irqrestore(&dev->lock, flags);
}

/* Says so, once, when the host keeps what it should give back. */
static void paragpu_watch(struct work_struct *work)
{
	struct paragpu_device *dev = container_of(to_delayed_work(work),
						  struct paragpu_device, watch);
	struct paragpu_cmd *oldest;
	bool tell = false;

	spin_lock_irq(&dev->lock);
	oldest = list_first_entry_or_null(&dev->in_flight, struct paragpu_cmd,
					  node);
	if (oldest && dev->up) {
		tell = !dev->told &&
		       time_after(jiffies, oldest->queued + PARAGPU_SILENCE);
		dev->told |= tell;
		queue_delayed_work(dev->wq, &dev->watch, PARAGPU_WATCH_INTERVAL);
	}
	spin_unlock_irq(&dev->lock);
	if (tell)
		dev_warn_ratelimited(&dev->vdev->dev,
				     "the host has not answered for %d s; what it was given stays with it until a reset\n",
				     PARAGPU_SILENCE / HZ);
}

/**
 * paragpu_send() - send a command
 * @dev: the device
 * @epoch: the epoch that the command belongs to
 * @cmd: the command; the queue takes a reference of its own
 *
 * A command with @finish is kept even when the device is down for now: its
 * finish is called after the reset that must come.
 *
 * Context: Any.
 * Return: 0, or -ENODEV if the device is down or has been reset since.
 */
int paragpu_send(struct paragpu_device *dev, u32 epoch, struct paragpu_cmd *cmd)
{
	unsigned long flags;
	int ret = 0;

	spin_lock_irqsave(&dev->lock, flags);
	if (epoch != dev->epoch || (!dev->up && !cmd->finish)) {
		ret = -ENODEV;
	} else {
		struct paragpu_file *file = cmd->file;

		kref_get(&cmd->refs);
		cmd->queued = jiffies;
		if (file) {
			file->unanswered++;
			if (cmd->fence)
				list_add_tail(&cmd->fence_node, &file->fences);
		}
		list_add_tail(&cmd->node, &dev->backlog);
		if (dev->up)
			paragpu_pump(dev);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	return ret;
}

/**
 * paragpu_wait() - wait for a command's answer
 * @cmd: a command that has been sent
 * @timeout: how long at most, in jiffies
 *
 * Context: Process context.
 * Return: the command's result, -ETIMEDOUT, or -ERESTARTSYS for a signal.
 */
int paragpu_wait(struct paragpu_cmd *cmd, long timeout)
{
	long left;

	left = wait_for_completion_interruptible_timeout(&cmd->done, timeout);
	if (left < 0)
		return left;
	return left ? cmd->result : -ETIMEDOUT;
}

/**
 * paragpu_ask() - send a command and wait for its answer
 * @dev: the device
 * @cmd: the command
 *
 * For the time while nobody else uses the device.
 *
 * Context: Process context.
 * Return: the command's result, -ETIMEDOUT, or -ERESTARTSYS when the process
 * is being killed.
 */
int paragpu_ask(struct paragpu_device *dev, struct paragpu_cmd *cmd)
{
	long left;
	int ret;

	ret = paragpu_send(dev, dev->epoch, cmd);
	if (ret)
		return ret;
	left = wait_for_completion_killable_timeout(&cmd->done,
						    PARAGPU_ANSWER_TIMEOUT);
	if (left < 0)
		return left;
	return left ? cmd->result : -ETIMEDOUT;
}

/**
 * paragpu_queue_init() - prepare what the functions here need
 * @dev: the device
 */
void paragpu_queue_init(struct paragpu_device *dev)
{
	spin_lock_init(&dev->lock);
	INIT_LIST_HEAD(&dev->backlog);
	INIT_LIST_HEAD(&dev->in_flight);
	INIT_LIST_HEAD(&dev->finished);
	INIT_LIST_HEAD(&dev->stranded);
	INIT_WORK(&dev->finish_work, paragpu_finish_work);
	INIT_DELAYED_WORK(&dev->watch, paragpu_watch);
}

static int paragpu_find_queues(struct virtio_device *vdev, unsigned int count,
			       struct virtqueue *queues[])
{
#ifdef PARAGPU_HAVE_VIRTQUEUE_INFO
	struct virtqueue_info infos[] = {
		{ "control", paragpu_control_done },
		{ "cursor", NULL },
	};

	return virtio_find_vqs(vdev, count, queues, infos, NULL);
#else
	vq_callback_t *callbacks[] = { paragpu_control_done, NULL };
	static const char * const names[] = { "control", "cursor" };

	return virtio_find_vqs(vdev, count, queues, callbacks, names, NULL);
#endif
}

/**
 * paragpu_queue_start() - take the queues into use
 * @dev: a device that has been reset
 *
 * A virtio-gpu has a second queue. Nothing is ever sent there, but some front
 * ends want all queues that they offer to be set up.
 *
 * Return: 0 or an errno.
 */
int paragpu_queue_start(struct paragpu_device *dev)
{
	struct virtqueue *queues[2];
	int ret;

	ret = paragpu_find_queues(dev->vdev, 2, queues);
	if (ret)
		ret = paragpu_find_queues(dev->vdev, 1, queues);
	if (ret)
		return ret;
	virtio_device_ready(dev->vdev);
	spin_lock_irq(&dev->lock);
	dev->control = queues[0];
	dev->told = false;
	dev->up = true;
	spin_unlock_irq(&dev->lock);
	return 0;
}

/**
 * paragpu_queue_stop() - reset the device and end all commands
 * @dev: the device
 *
 * When this returns, the host has nothing that belongs to this kernel.
 *
 * Context: Process context; never twice at a time.
 */
void paragpu_queue_stop(struct paragpu_device *dev)
{
	struct paragpu_region *region, *next_region;
	struct paragpu_cmd *cmd, *next;
	LIST_HEAD(stranded);

	spin_lock_irq(&dev->lock);
	dev->up = false;
	spin_unlock_irq(&dev->lock);
	if (!dev->control)
		return;

	virtio_reset_device(dev->vdev);
	cancel_delayed_work_sync(&dev->watch);
	while (virtqueue_detach_unused_buf(dev->control))
		;
	dev->vdev->config->del_vqs(dev->vdev);
	dev->control = NULL;

	spin_lock_irq(&dev->lock);
	dev->epoch++;
	list_for_each_entry_safe(cmd, next, &dev->in_flight, node)
		paragpu_cmd_over(dev, cmd, -ENODEV);
	list_for_each_entry_safe(cmd, next, &dev->backlog, node)
		paragpu_cmd_over(dev, cmd, -ENODEV);
	list_splice_init(&dev->stranded, &stranded);
	spin_unlock_irq(&dev->lock);
	list_for_each_entry_safe(region, next_region, &stranded, node) {
		list_del_init(&region->node);
		paragpu_region_put(region);
	}
	flush_work(&dev->finish_work);
}
