#!/usr/bin/env python3
"""dpnp, a NumPy on SYCL: arrays in each kind of unified shared memory, compared with NumPy's.

SYCL takes OpenCL devices that have unified shared memory and SPIR-V, such as Intel's OpenCL for processors.
"""
import dpctl
import dpnp
import numpy

queue = dpctl.SyclQueue("opencl")
print(queue.sycl_device.name)

random = numpy.random.default_rng(1)
left = random.random((200, 300), dtype=numpy.float32)
right = random.random((300, 100), dtype=numpy.float32)
for memory in ("device", "shared", "host"):
    x = dpnp.asarray(left, sycl_queue=queue, usm_type=memory)
    y = dpnp.asarray(right, sycl_queue=queue, usm_type=memory)
    for name, ours, numpys in [
        ("sines", dpnp.sqrt(x) + dpnp.sin(x), numpy.sqrt(left) + numpy.sin(left)),
        ("sum", dpnp.sum(x), left.sum()),
        ("sorted", dpnp.sort(x, axis=1), numpy.sort(left, axis=1)),
        ("running sums", dpnp.cumsum(x, axis=1), numpy.cumsum(left, axis=1)),
        ("product", dpnp.matmul(x, y), left @ right),
        ("inverse", dpnp.linalg.inv(y[:100]), numpy.linalg.inv(right[:100].astype(float))),
    ]:
        ours = dpnp.asnumpy(ours)
        loose = name == "inverse"
        assert numpy.allclose(ours, numpys, rtol=2e-2 if loose else 1e-4, atol=2e-2 if loose else 1e-5), (memory, name)
        print(memory, name, float(numpy.sum(ours, dtype=float)))
