# The guest's part of the life cycle scenario. It runs twice, before and after a reboot of the guest.
# Arguments: the program that computes and compares, and a folder shared with the host.
check=$1
folder=$2
output=/tmp/paragpu-lifecycle-output
driver=/sys/bus/virtio/drivers/virtio_gpu

step() {
    printf '=== in the VM: %s\n' "$*"
}

fail() {
    step "FAILED: $*"
    exit 1
}

compute() {
    "$check" >"$output" 2>&1 || {
        cat "$output"
        fail "the computation"
    }
    tail -n 1 "$output"
}

# Lets the host look at paragpud and the executor while nothing computes here. It answers in a file.
look() {
    echo "look $1"
    tries=0
    until [ -e "$folder/$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 600 ] || fail "the host does not answer"
        sleep 0.05
    done
    [ ! -s "$folder/$1" ] || fail "$(cat "$folder/$1")"
}

# Kills processes that have computed for so many seconds.
kill_after() {
    moment=$1
    shift
    processes=
    for _ in "$@"; do
        "$check" >/dev/null 2>&1 &
        processes="$processes $!"
    done
    sleep "$moment"
    for process in $processes; do
        kill -9 "$process" 2>/dev/null
    done
    for process in $processes; do
        wait "$process" 2>/dev/null
        [ $? -ne 137 ] || killed=$((killed + 1))
    done
}

if [ -e "$folder/rebooting" ]; then
    [ ! -e "$folder/rebooted" ] || fail "the guest rebooted twice"
    step "computing after a reboot"
    compute
    look rebooted
    exit 0
fi

step "computing"
compute
look computed

step "killing processes while they compute"
killed=0
for moment in 0.1 0.3 0.6 1 1.5 2; do
    kill_after "$moment" one
done
kill_after 1 one two three
echo "$killed processes killed"
[ "$killed" -gt 1 ] || fail "too few of the processes were still there to be killed"
compute
look killed

step "unbinding the driver and binding it again"
device=$(basename "$driver"/virtio*)
echo "$device" >"$driver/unbind" || fail "unbind"
[ ! -e /dev/dri/renderD128 ] || fail "the render node is still there"
echo "$device" >"$driver/bind" || fail "bind"
compute
look rebound

step "unbinding the driver while a process computes"
"$check" >/dev/null 2>&1 &
process=$!
sleep 0.7
echo "$device" >"$driver/unbind" || fail "unbind"
kill -9 "$process"
wait "$process" 2>/dev/null
echo "$device" >"$driver/bind" || fail "bind"
compute
look torn

step "rebooting while a process computes"
echo "yes" >"$folder/rebooting"
"$check" >/dev/null 2>&1 &
sleep 0.7
touch /run/paragpu-vm/reboot
