// SPDX-License-Identifier: GPL-2.0
/*
 * paragpu: a guest's share of a compute GPU. The device, from probe to remove.
 *
 * The device speaks the part of virtio-gpu's control queue that makes contexts,
 * shares guest memory with them and sends them commands. All else goes through
 * that memory and is between the host and the programs.
 */

#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pm.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/virtio_config.h>

#include "paragpu_drv.h"

/* The virtio id of a device that is nothing but a paragpu. */
#define PARAGPU_VIRTIO_ID	62

/* The capset that makes a virtio-gpu a paragpu, and how it starts. */
#define PARAGPU_CAPSET_ID	27
static const char paragpu_magic[8] = "paragpu";

/* Where the capset has the size of the largest region, a 64-bit number. */
#define PARAGPU_CAPSET_MAX_REGION	24

/* The longest capset that is looked at. */
#define PARAGPU_CAPSET_MAX	4096

static unsigned int claim_id;
module_param(claim_id, uint, 0444);
MODULE_PARM_DESC(claim_id,
		 "Drive devices with this virtio id, too, if they are a paragpu: 16 (virtio-gpu) where the front end has no other and the kernel no driver");

static unsigned long file_mib;
module_param(file_mib, ulong, 0644);
MODULE_PARM_DESC(file_mib, "Most MiB of regions of one open file (default 0: half of the memory)");

static unsigned long device_mib;
module_param(device_mib, ulong, 0644);
MODULE_PARM_DESC(device_mib, "Most MiB of regions of one device (default 0: three quarters of the memory)");

static DEFINE_IDA(paragpu_numbers);

/* Bytes that a parameter allows, or the given quarters of the memory. */
static u64 paragpu_limit(unsigned long mib, unsigned int quarters)
{
	if (mib)
		return (u64)mib << 20;
	return ((u64)totalram_pages() << PAGE_SHIFT) / 4 * quarters;
}

/**
 * paragpu_charge() - count memory before it is allocated
 * @file: whose it will be
 * @bytes: how much
 *
 * Return: 0, or -EDQUOT if that is too much.
 */
int paragpu_charge(struct paragpu_file *file, u64 bytes)
{
	u64 file_limit = paragpu_limit(READ_ONCE(file_mib), 2);
	u64 device_limit = paragpu_limit(READ_ONCE(device_mib), 3);
	struct paragpu_device *dev = file->dev;
	int ret = 0;

	spin_lock_irq(&dev->lock);
	if (file->bytes + bytes > file_limit ||
	    dev->bytes + bytes > device_limit) {
		ret = -EDQUOT;
	} else {
		file->bytes += bytes;
		dev->bytes += bytes;
	}
	spin_unlock_irq(&dev->lock);
	return ret;
}

/**
 * paragpu_uncharge() - the memory has been freed
 * @file: whose it was
 * @bytes: how much
 */
void paragpu_uncharge(struct paragpu_file *file, u64 bytes)
{
	struct paragpu_device *dev = file->dev;

	spin_lock_irq(&dev->lock);
	file->bytes -= bytes;
	dev->bytes -= bytes;
	spin_unlock_irq(&dev->lock);
}

/* Asks for the first capset's id. The host takes this for a new driver. */
static int paragpu_hello(struct paragpu_device *dev, u32 *version, u32 *bytes)
{
	const struct virtio_gpu_resp_capset_info *info;
	struct device *parent = &dev->vdev->dev;
	struct paragpu_cmd *cmd;
	int ret;

	cmd = paragpu_cmd_alloc(VIRTIO_GPU_CMD_GET_CAPSET_INFO, 0,
				sizeof(struct virtio_gpu_get_capset_info),
				sizeof(*info));
	if (!cmd)
		return -ENOMEM;
	ret = paragpu_ask(dev, cmd);
	info = cmd->response;
	if (ret) {
		dev_err(parent, "the host does not say what it is: error %d\n", ret);
	} else if (cmd->used < sizeof(*info) ||
		   cmd->answer != VIRTIO_GPU_RESP_OK_CAPSET_INFO) {
		dev_err(parent, "the host does not say what it is: answer %#x of %u bytes\n",
			cmd->answer, cmd->used);
		ret = -EPROTO;
	} else if (le32_to_cpu(info->capset_id) != PARAGPU_CAPSET_ID) {
		dev_info(parent, "a virtio-gpu, but not a paragpu (capset %u)\n",
			 le32_to_cpu(info->capset_id));
		ret = -ENODEV;
	} else {
		*version = le32_to_cpu(info->capset_max_version);
		*bytes = le32_to_cpu(info->capset_max_size);
	}
	paragpu_cmd_put(cmd);
	return ret;
}

static int paragpu_take_capset(struct paragpu_device *dev, const u8 *capset,
			       u32 bytes)
{
	if (bytes < PARAGPU_CAPSET_MAX_REGION + sizeof(__le64) ||
	    memcmp(capset, paragpu_magic, sizeof(paragpu_magic))) {
		dev_err(&dev->vdev->dev, "the host's capset is not a paragpu's\n");
		return -EPROTO;
	}
	bytes = min_t(u32, bytes, PARAGPU_CAPSET_BYTES);
	spin_lock_irq(&dev->lock);
	memcpy(dev->capset, capset, bytes);
	dev->capset_bytes = bytes;
	/* The command that makes regions has 32 bits for their size. */
	dev->max_region_bytes =
		min_t(u64, le64_to_cpup((const __le64 *)(dev->capset + PARAGPU_CAPSET_MAX_REGION)),
		      U32_MAX) & PAGE_MASK;
	spin_unlock_irq(&dev->lock);
	return 0;
}

static int paragpu_read_capset(struct paragpu_device *dev)
{
	struct virtio_gpu_get_capset *request;
	struct virtio_gpu_resp_capset *response;
	struct paragpu_cmd *cmd;
	u32 version, bytes;
	int ret;

	ret = paragpu_hello(dev, &version, &bytes);
	if (ret)
		return ret;
	bytes = min_t(u32, bytes, PARAGPU_CAPSET_MAX);
	cmd = paragpu_cmd_alloc(VIRTIO_GPU_CMD_GET_CAPSET, 0, sizeof(*request),
				sizeof(*response) + bytes);
	if (!cmd)
		return -ENOMEM;
	request = cmd->request;
	request->capset_id = cpu_to_le32(PARAGPU_CAPSET_ID);
	request->capset_version = cpu_to_le32(version);
	ret = paragpu_ask(dev, cmd);
	response = cmd->response;
	if (ret)
		dev_err(&dev->vdev->dev, "the host's capset cannot be had: error %d\n", ret);
	else if (cmd->answer != VIRTIO_GPU_RESP_OK_CAPSET)
		ret = -EPROTO;
	else
		ret = paragpu_take_capset(dev, response->capset_data,
					  cmd->used - sizeof(*response));
	paragpu_cmd_put(cmd);
	return ret;
}

static int paragpu_start(struct paragpu_device *dev)
{
	int ret;

	ret = paragpu_queue_start(dev);
	if (ret)
		return ret;
	ret = paragpu_read_capset(dev);
	if (ret)
		paragpu_queue_stop(dev);
	return ret;
}

static void paragpu_device_free(struct kref *refs)
{
	struct paragpu_device *dev =
		container_of(refs, struct paragpu_device, refs);

	ida_destroy(&dev->context_ids);
	ida_destroy(&dev->resource_ids);
	kfree(dev);
}

/**
 * paragpu_device_put() - let go of a device
 * @dev: the device
 */
void paragpu_device_put(struct paragpu_device *dev)
{
	kref_put(&dev->refs, paragpu_device_free);
}

/* How much memory is shared with the host, but for what is pinned. */
static ssize_t shared_bytes_show(struct device *device,
				 struct device_attribute *attr, char *buf)
{
	struct miscdevice *misc = dev_get_drvdata(device);
	struct paragpu_device *dev =
		container_of(misc, struct paragpu_device, misc);

	return sysfs_emit(buf, "%llu\n", READ_ONCE(dev->bytes));
}
static DEVICE_ATTR_RO(shared_bytes);

static struct attribute *paragpu_attrs[] = {
	&dev_attr_shared_bytes.attr,
	NULL
};
ATTRIBUTE_GROUPS(paragpu);

static int paragpu_register(struct paragpu_device *dev)
{
	int ret;

	dev->number = ida_alloc(&paragpu_numbers, GFP_KERNEL);
	if (dev->number < 0)
		return dev->number;
	snprintf(dev->name, sizeof(dev->name), "paragpu%d", dev->number);
	dev->misc.minor = MISC_DYNAMIC_MINOR;
	dev->misc.name = dev->name;
	dev->misc.fops = &paragpu_fops;
	dev->misc.parent = &dev->vdev->dev;
	dev->misc.groups = paragpu_groups;
	/* For everybody, a udev rule gives it to the group render. */
	dev->misc.mode = 0660;
	ret = misc_register(&dev->misc);
	if (ret)
		ida_free(&paragpu_numbers, dev->number);
	return ret;
}

static int paragpu_probe(struct virtio_device *vdev)
{
	struct paragpu_device *dev;
	u32 capsets;
	int ret;

	if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "a paragpu is a virtio 1 device\n");
		return -ENODEV;
	}
	virtio_cread_le(vdev, struct virtio_gpu_config, num_capsets, &capsets);
	if (!capsets) {
		dev_info(&vdev->dev, "a virtio-gpu, but not a paragpu (no capset)\n");
		return -ENODEV;
	}

	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	if (!dev)
		return -ENOMEM;
	kref_init(&dev->refs);
	dev->vdev = vdev;
	ida_init(&dev->context_ids);
	ida_init(&dev->resource_ids);
	paragpu_queue_init(dev);
	vdev->priv = dev;
	dev->wq = alloc_workqueue("paragpu", WQ_UNBOUND, 0);
	if (!dev->wq) {
		ret = -ENOMEM;
		goto put_device;
	}
	ret = paragpu_start(dev);
	if (ret)
		goto destroy_wq;
	ret = paragpu_register(dev);
	if (ret)
		goto stop_queue;
	dev_info(&vdev->dev, "%s: protocol %u.%u\n", dev->name,
		 le16_to_cpup((const __le16 *)(dev->capset + 8)),
		 le16_to_cpup((const __le16 *)(dev->capset + 10)));
	return 0;

stop_queue:
	paragpu_queue_stop(dev);
destroy_wq:
	destroy_workqueue(dev->wq);
put_device:
	paragpu_device_put(dev);
	return ret;
}

/* Files may be open, and stay valid: all that they can do is to be closed. */
static void paragpu_remove(struct virtio_device *vdev)
{
	struct paragpu_device *dev = vdev->priv;

	misc_deregister(&dev->misc);
	paragpu_queue_stop(dev);
	destroy_workqueue(dev->wq);
	ida_free(&paragpu_numbers, dev->number);
	paragpu_device_put(dev);
}

#ifdef CONFIG_PM_SLEEP
/* What the host has of open files does not outlive a suspend. */
static int paragpu_freeze(struct virtio_device *vdev)
{
	paragpu_queue_stop(vdev->priv);
	return 0;
}

static int paragpu_restore(struct virtio_device *vdev)
{
	return paragpu_start(vdev->priv);
}
#endif

/* Regions are lists of guest-physical addresses: an IOMMU would be in the way. */
static int paragpu_validate(struct virtio_device *vdev)
{
	__virtio_clear_bit(vdev, VIRTIO_F_ACCESS_PLATFORM);
	return 0;
}

static const struct virtio_device_id paragpu_ids[] = {
	{ PARAGPU_VIRTIO_ID, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, paragpu_ids);

/* The same, and the one that is claimed. */
static struct virtio_device_id paragpu_claimed_ids[] = {
	{ PARAGPU_VIRTIO_ID, VIRTIO_DEV_ANY_ID },
	{ 0, VIRTIO_DEV_ANY_ID },
	{ 0 },
};

static struct virtio_driver paragpu_driver = {
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.validate = paragpu_validate,
	.probe = paragpu_probe,
	.remove = paragpu_remove,
#ifdef CONFIG_PM_SLEEP
	.freeze = paragpu_freeze,
	.restore = paragpu_restore,
#endif
};

static int __init paragpu_init(void)
{
	paragpu_claimed_ids[1].device = claim_id;
	paragpu_driver.id_table = claim_id ? paragpu_claimed_ids : paragpu_ids;
	return register_virtio_driver(&paragpu_driver);
}
module_init(paragpu_init);

static void __exit paragpu_exit(void)
{
	unregister_virtio_driver(&paragpu_driver);
	ida_destroy(&paragpu_numbers);
}
module_exit(paragpu_exit);

MODULE_DESCRIPTION("paragpu guest driver: a share of the host's compute GPU");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
