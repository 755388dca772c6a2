# Run by the guest's shell, in the lifecycle's second VM. $1: the program that checks the vGPU; $2: the folder
# tests/programs.
set -e
"$1"
# A pipe's status is its last command's, and clinfo succeeds without a device, too.
clinfo --raw | grep -q 'CL_PLATFORM_NAME  *paragpu'
echo "clinfo sees the vGPU"
python=/usr/bin/python3
[ -x "$python" ] || python=python3
"$python" "$2/buffer_errors.py" > /tmp/buffer-errors
diff "$2/buffer_errors.expected" /tmp/buffer-errors
echo "commands on buffers end as the specification asks"
