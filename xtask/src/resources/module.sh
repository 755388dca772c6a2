# The guest's part of the check of paragpu's kernel module.
# Arguments: the program that tries the module, the one that computes and compares, cycles of each process, rounds of
# kills, seconds of random calls, the seed for them, and the module's parameters.
try=$1
check=$2
cycles=$3
rounds=$4
seconds=$5
seed=$6
parameters=$7
driver=/sys/bus/virtio/drivers/paragpu
box=/run/paragpu-vm/busybox

step() {
    printf '=== in the VM: %s\n' "$*"
}

fail() {
    step "FAILED: $*"
    dmesg | tail -n 40
    exit 1
}

# The kernel must not have complained so far. What the module itself says is another matter.
clean() {
    if dmesg | grep -E 'WARNING|BUG|Oops|Call Trace|KASAN|UBSAN|general protection|refcount_t|hung task|leak'; then
        fail "the kernel complains after $1"
    fi
}

compute() {
    "$check" >/tmp/output 2>&1 || {
        cat /tmp/output
        fail "the computation"
    }
    tail -n 1 /tmp/output
}

step "on Linux $(uname -r): clinfo and a computation"
clinfo | grep -m 1 'Device Name' || fail "clinfo shows no device"
compute

step "eight processes open, allocate, submit and close $cycles times each"
"$try" cycles --cycles "$cycles" || fail "cycles"
clean "the cycles"

step "processes are killed at work"
"$try" kill --rounds "$rounds" || fail "kills"
clean "the kills"

step "the module is in use"
mkfifo /tmp/end
"$try" hold </tmp/end >/tmp/held 2>&1 &
holder=$!
exec 4>/tmp/end
until grep -q held /tmp/held; do
    kill -0 "$holder" || fail "holding"
    sleep 0.1
done
refusal=$("$box" rmmod paragpu 2>&1) && fail "the module in use was unloaded"
case $refusal in
    *temporarily\ unavailable*) ;;
    *) fail "unloading the module in use: $refusal" ;;
esac

step "the device goes while a file is open"
device=$(basename "$driver"/virtio*)
echo "$device" >"$driver/unbind" || fail "unbind"
[ ! -e /dev/paragpu0 ] || fail "the node is still there"
exec 4>&-
wait "$holder" || fail "what a lost file can do: $(cat /tmp/held)"
echo "$device" >"$driver/bind" || fail "bind"
compute
clean "the unbinding"

step "the device goes while processes are at work"
"$check" >/dev/null 2>&1 &
computing=$!
"$try" work 100000 1 2>/dev/null &
working=$!
sleep 1
echo "$device" >"$driver/unbind" || fail "unbind"
wait "$working" && fail "a process went on without a device"
kill -9 "$computing" 2>/dev/null
wait "$computing" 2>/dev/null
echo "$device" >"$driver/bind" || fail "bind"
compute
clean "the second unbinding"

step "random calls for $seconds s"
"$try" hostile --seconds "$seconds" --seed "$seed" || fail "random calls"
compute
clean "the random calls"

step "the module is unloaded and loaded again"
"$box" rmmod paragpu || fail "rmmod"
"$box" insmod /run/paragpu-vm/paragpu.ko $parameters || fail "insmod"
compute
clean "the reloading"

# The file systems of this VM do not survive a suspend, so it comes last, and whatever is still needed lies in memory.
if [ ! -e /sys/power/pm_test ]; then
    step "skipped: suspend and resume (the kernel has no pm_test)"
    exit 0
fi
step "suspend and resume, without the sleep between them"
mkdir /run/suspend
cp "$try" /run/suspend/try
for library in $(ldd "$try" | grep -o '/[^ ]*'); do cp "$library" /run/suspend; done
cp "$(ldd "$try" | grep -o '/[^ ]*ld-linux[^ ]*')" /run/suspend/loader
mkfifo /run/suspend/end
cat >/run/suspend/script <<'END'
box=/run/paragpu-vm/busybox
try="/run/suspend/loader --library-path /run/suspend /run/suspend/try"
$try hold </run/suspend/end >/run/suspend/held 2>&1 &
holder=$!
exec 4>/run/suspend/end
until $box grep -q held /run/suspend/held; do $box sleep 0.1; done
echo devices >/sys/power/pm_test
echo freeze >/sys/power/state || exit 1
exec 4>&-
wait "$holder" || {
    echo "=== in the VM: FAILED: what a file of before the suspend can do: $($box cat /run/suspend/held)"
    exit 1
}
$try work 5 1 || exit 1
echo "=== in the VM: files of before are lost, and others work"
$box dmesg | $box grep -E 'WARNING|BUG|Oops|Call Trace|KASAN' && exit 1
exit 0
END
exec "$box" sh /run/suspend/script
