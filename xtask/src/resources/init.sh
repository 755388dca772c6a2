#!/bin/busybox sh
# The first process of the developer VM. It loads the drivers, makes the host's file system the root (read-only below,
# writable in memory above), runs one job in it and powers off.
#
# Port 1 carries lines to the host: "boot TEXT", "warn TEXT", "fail TEXT", "start" and "exit STATUS".
# Ports 2 and 3 carry the job's stdout and stderr, and nothing else.
# /settings sets FILES (9p or virtiofs), NODE (the vGPU's file, or nothing) and ICD (the path of the OpenCL driver, or
# nothing); /job.sh is the job; /shares lists the writable host folders.

/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
. /settings

tell() {
    echo "$*" >&3
}

fail() {
    tell "fail $*"
    sync
    poweroff -f
}

await() {
    tries=0
    until [ -e "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 100 ] || return 1
        sleep 0.05
    done
}

# The modules are numbered in loading order. Some kernels have some of them built in.
for module in /modules/ports/*.ko; do
    insmod "$module" $(cat "$module.parameters") || echo "init: cannot load $module"
done
await /dev/vport0p3 || {
    echo "init: the host's ports do not show up"
    poweroff -f
}
exec 3>/dev/vport0p1
tell "boot loading drivers"
for module in /modules/others/*.ko; do
    insmod "$module" $(cat "$module.parameters") || echo "init: cannot load $module"
done

tell "boot mounting the host's file system"
# Mounts a folder of the host's, TAG at PLACE, to read (ro) or to write (rw).
mount_folder() {
    case "$FILES $3" in
        virtiofs*) options=$3 ;;
        "9p ro") options=ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose ;;
        "9p rw") options=rw,trans=virtio,version=9p2000.L,msize=262144,cache=mmap ;;
    esac
    mount -t "$FILES" -o "$options" "$1" "$2"
}
mkdir /host /memory /guest
mount_folder host /host ro || fail "cannot mount the host's file system"
mount -t tmpfs memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /guest ||
    fail "cannot lay the writable file system over the host's"

cd /guest || fail "no root file system"
mkdir -p proc sys dev run tmp
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs dev dev
mount -t tmpfs -o mode=755 run run
chmod 1777 tmp
mkdir -p dev/pts dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -sf /proc/self/fd dev/fd
ln -sf fd/0 dev/stdin
ln -sf fd/1 dev/stdout
ln -sf fd/2 dev/stderr
[ ! -s etc/hostname ] || hostname -F etc/hostname
ip link set lo up

# No OpenCL driver but paragpu's, so that nothing can fall back to the host's CPU driver unseen.
mkdir -p etc/OpenCL/vendors
mount -t tmpfs -o mode=755 vendors etc/OpenCL/vendors || fail "cannot hide the host's OpenCL drivers"
[ -z "$ICD" ] || echo "$ICD" >etc/OpenCL/vendors/paragpu.icd

number=0
while IFS= read -r share; do
    mkdir -p "/guest$share"
    mount_folder "share$number" "/guest$share" rw || fail "cannot mount the shared folder $share"
    number=$((number + 1))
done </shares

if [ -n "$NODE" ] && ! await "/guest$NODE"; then
    tell "warn there is no $NODE in the guest: its driver did not accept the device (--kernel-log shows what it says)"
fi

# Pipes between the job and the ports: a port can be opened only once, a pipe can be reopened as /dev/stdout.
mkfifo /stdout /stderr
cat /stdout >/dev/vport0p2 3>&- &
stdout=$!
cat /stderr >/dev/vport0p3 3>&- &
stderr=$!

mkdir -p run/paragpu-vm
cp /job.sh run/paragpu-vm/job.sh
# For jobs that unload the vGPU's driver.
cp /modules/others/*-paragpu.ko run/paragpu-vm/paragpu.ko 2>/dev/null
tell start
# In a subshell, or this shell would say "Killed" and the like on the job's stderr.
(exec chroot /guest /bin/sh /run/paragpu-vm/job.sh </dev/null >/stdout 2>/stderr 3>&-)
status=$?

# What the job left running would keep the pipes open.
for process in /proc/[0-9]*; do
    process=${process#/proc/}
    case $process in
        1 | "$stdout" | "$stderr") ;;
        *) kill -9 "$process" 2>/dev/null ;;
    esac
done
wait "$stdout" "$stderr"
sync
if [ -e run/paragpu-vm/reboot ]; then
    tell "boot rebooting"
    reboot -f
fi
tell "exit $status"
poweroff -f
