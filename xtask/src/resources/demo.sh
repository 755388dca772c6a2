# The guest's part of the demo: unmodified OpenCL programs on the vGPU, then this project's own.
# Arguments: the picture program, the file to write, the options of clpeak, and those for the picture's size.
picture=$1
file=$2
clpeak_options=$3
picture_options=$4
output=/tmp/paragpu-demo-output

step() {
    name=$1
    shift
    printf '\n=== in the VM: %s\n' "$name"
    start=$(date +%s)
    if ! "$@"; then
        printf '=== in the VM: %s failed after %s s\n' "$name" "$(($(date +%s) - start))"
        exit 1
    fi
    printf '=== in the VM: %s done in %s s\n' "$name" "$(($(date +%s) - start))"
}

# Runs a program and then looks for the line that shows that it really used the vGPU: both programs below also exit
# with success when there is no OpenCL device at all.
expect() {
    pattern=$1
    shift
    "$@" 2>&1 | tee "$output"
    grep -q "$pattern" "$output" || {
        echo "there is no line like '$pattern' in this output"
        return 1
    }
}

step "what clinfo sees" expect 'Platform Name .*paragpu' clinfo
# shellcheck disable=SC2086 # several options
step "clpeak measures" expect 'Kernel launch latency *:' clpeak $clpeak_options
# shellcheck disable=SC2086
step "a picture" "$picture" --output "$file" $picture_options
