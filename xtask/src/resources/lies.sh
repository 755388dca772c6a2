# The guest's part of the check with a device that lies (guest-driver/liar).
# Arguments: the program that tries the module, and the lies, one for each time the driver is bound from now on.
try=$1
shift
driver=/sys/bus/virtio/drivers/paragpu

step() {
    printf '=== in the VM: %s\n' "$*"
}

fail() {
    step "FAILED: $*"
    dmesg | tail -n 40
    exit 1
}

[ -e /dev/paragpu0 ] || fail "the module does not take the device"
device=$(basename "$driver"/virtio*)
echo "$device" >"$driver/unbind" || fail "unbind"

for lie in "$@"; do
    step "the device's lie: $lie"
    case $lie in
        *-info | *-capset)
            echo "$device" 2>/dev/null >"$driver/bind"
            [ ! -e /dev/paragpu0 ] || fail "the module takes such a device"
            ;;
        silent-resource)
            echo "$device" >"$driver/bind" || fail "bind"
            timeout -s KILL 1 "$try" lie "$lie" >/tmp/output 2>&1
            [ $? -eq 137 ] || fail "$(cat /tmp/output)"
            ;;
        *)
            echo "$device" >"$driver/bind" || fail "bind"
            "$try" lie "$lie" || fail "$lie"
            ;;
    esac
    if [ -e /dev/paragpu0 ]; then
        echo "$device" >"$driver/unbind" || fail "unbind"
    fi
    "$try" pinned || fail "after the device was reset"
done
if dmesg | grep -E 'WARNING|BUG|Oops|Call Trace|KASAN|UBSAN|general protection|refcount_t|hung task|leak'; then
    fail "the kernel complains"
fi
dmesg | grep -E 'paragpu virtio' | tail -n 20
