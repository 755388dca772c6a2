#!/bin/busybox sh
# The first process of the developer VM. It loads the drivers, makes the host's file system the root (read-only below,
# writable in memory above) or what was copied to /guest, runs one job in it and powers off.
#
# Port 1 carries lines to the host: "boot TEXT", "warn TEXT", "fail TEXT", "start" and "exit STATUS".
# Ports 2 and 3 carry the job's stdout and stderr, and nothing else. They are virtio-serial's where the guest sees the host's
# files, else vsock's; there, ports from 4 on carry what is in the shared folders at the end, as archives.
# /job.sh is the job; /shares lists the writable host folders; /settings sets
#   FILES       9p or virtiofs, or copies if the guest does not see the host's files
#   NODE        the vGPU's file, or nothing
#   ICD         the path of the OpenCL driver, or nothing
#   GUEST_PORT  the path of the program that connects to vsock ports, below /guest
#   NESTING     yes or no: whether the job runs VMs and computes with the host's OpenCL drivers

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
    exec 3>&-
    wait "$control"
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

# Gives what comes from a pipe to a port of the host.
port() {
    if [ "$FILES" != copies ]; then
        exec cat "$2" >"/dev/vport0p$1" 3>&-
    else
        exec chroot /guest "$GUEST_PORT" guest-port "$1" <"$2" 3>&-
    fi
}

mkfifo /control /stdout /stderr
if [ "$FILES" != copies ]; then
    await /dev/vport0p3 || {
        echo "init: the host's ports do not show up"
        poweroff -f
    }
fi
port 1 /control &
control=$!
exec 3>/control
tell "boot loading drivers"
for module in /modules/others/*.ko; do
    [ ! -e "$module" ] || insmod "$module" $(cat "$module.parameters") || echo "init: cannot load $module"
done

# Mounts a folder of the host's, TAG at PLACE, to read (ro) or to write (rw).
mount_folder() {
    case "$FILES $3" in
        virtiofs*) options=$3 ;;
        "9p ro") options=ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose ;;
        "9p rw") options=rw,trans=virtio,version=9p2000.L,msize=262144,cache=mmap ;;
    esac
    mount -t "$FILES" -o "$options" "$1" "$2"
}

if [ "$FILES" != copies ]; then
    tell "boot mounting the host's file system"
    mkdir /host /memory /guest
    mount_folder host /host ro || fail "cannot mount the host's file system"
    mount -t tmpfs memory /memory
    mkdir /memory/upper /memory/work
    mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /guest ||
        fail "cannot lay the writable file system over the host's"
else
    # Its own programs come first: what the host has of the same name is there already.
    chroot /guest /bin/busybox --install -s /bin 2>/dev/null
fi

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
[ "$NESTING" = yes ] || mount -t tmpfs -o mode=755 vendors etc/OpenCL/vendors ||
    fail "cannot hide the host's OpenCL drivers"
[ -z "$ICD" ] || echo "$ICD" >etc/OpenCL/vendors/paragpu.icd

number=0
while IFS= read -r share; do
    mkdir -p "/guest$share"
    [ "$FILES" = copies ] ||
        mount_folder "share$number" "/guest$share" rw || fail "cannot mount the shared folder $share"
    number=$((number + 1))
done </shares

if [ -n "$NODE" ] && ! await "/guest$NODE"; then
    tell "warn there is no $NODE in the guest: its driver did not accept the device (--kernel-log shows what it says)"
fi

# Pipes between the job and the ports: a port can be opened only once, a pipe can be reopened as /dev/stdout.
port 2 /stdout &
stdout=$!
port 3 /stderr &
stderr=$!

mkdir -p run/paragpu-vm
cp /job.sh run/paragpu-vm/job.sh
# For jobs that unload the vGPU's driver; the host may have no kmod.
cp /bin/busybox run/paragpu-vm/busybox
cp /modules/others/*-paragpu.ko run/paragpu-vm/paragpu.ko 2>/dev/null
tell start
# In a subshell, or this shell would say "Killed" and the like on the job's stderr.
(exec chroot /guest /bin/sh /run/paragpu-vm/job.sh </dev/null >/stdout 2>/stderr 3>&-)
status=$?

# What the job left running would keep the pipes open.
for process in /proc/[0-9]*; do
    process=${process#/proc/}
    case $process in
        1 | "$control" | "$stdout" | "$stderr") ;;
        *) kill -9 "$process" 2>/dev/null ;;
    esac
done
wait "$stdout" "$stderr"
if [ "$FILES" = copies ]; then
    number=4
    while IFS= read -r share; do
        mkfifo "/share$number"
        port "$number" "/share$number" &
        tar -c -f "/share$number" -C "/guest$share" .
        wait "$!"
        number=$((number + 1))
    done </shares
fi
sync
if [ -e run/paragpu-vm/reboot ]; then
    tell "boot rebooting"
    exec 3>&-
    wait "$control"
    reboot -f
fi
tell "exit $status"
exec 3>&-
wait "$control"
poweroff -f
