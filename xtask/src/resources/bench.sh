# Runs workloads in the guest, one process for each run: the worker's program, and then NAME SAMPLES in turn. Tells for each how
# many interrupts of virtio devices the guest had meanwhile.
set -e
speed=$1
shift

interrupts() {
    awk '/virtio/ && !/config/ { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) sum += $i } END { print sum + 0 }' /proc/interrupts
}

while [ $# -gt 0 ]; do
    before=$(interrupts)
    printf 'run %s %s 0\n' "$1" "$2" | "$speed" >/dev/null
    echo "ran $1 $2: $(($(interrupts) - before)) interrupts"
    shift 2
done
