#!/usr/bin/env python3
"""pyopencl's arrays, scans, reductions, random numbers and own kernels, checked against numpy.

Prints what it computed, so that two devices can be compared.
"""
import zlib

import numpy
import pyopencl as cl
import pyopencl.array
import pyopencl.clmath
import pyopencl.clrandom
import pyopencl.elementwise
import pyopencl.reduction
import pyopencl.scan

context = cl.Context([cl.get_platforms()[0].get_devices()[0]])
queue = cl.CommandQueue(context, properties=cl.command_queue_properties.PROFILING_ENABLE)
generator = numpy.random.default_rng(7)


def tell(what, values, expected=None, tolerance=0.0):
    values = numpy.ascontiguousarray(values)
    if expected is not None:
        difference = numpy.abs(values.astype(float) - numpy.asarray(expected, dtype=float)).max()
        assert difference <= tolerance, f"{what}: off by {difference}"
    print(f"{what}: {values.dtype} {values.shape} {zlib.crc32(values.tobytes()):08x}")


def arrays():
    a, b = (generator.random(100_003, dtype=numpy.float32) for _ in range(2))
    on_a, on_b = cl.array.to_device(queue, a), cl.array.to_device(queue, b)
    tell("a * b + 2 a", (on_a * on_b + 2 * on_a).get(), a * b + 2 * a, 1e-6)
    tell("a part", (on_a[1000:90_000] * 2).get(), a[1000:90_000] * 2)
    tell("square roots", cl.clmath.sqrt(on_a).get(), numpy.sqrt(a), 1e-6)
    tell("sum", cl.array.sum(on_a).get(), a.sum(dtype=float), 0.5)
    tell("dot", cl.array.dot(on_a, on_b).get(), a.astype(float) @ b, 0.5)
    tell("largest", cl.array.max(on_a).get(), a.max())
    integers = generator.integers(0, 1000, 70_001, dtype=numpy.int32)
    on_integers = cl.array.to_device(queue, integers)
    tell("shifted", (on_integers + 5).get(), integers + 5)
    tell("taken", cl.array.take(on_a, on_integers).get(), a[integers])
    tell("where", cl.array.if_positive(on_a - 0.5, on_a, on_b).get(), numpy.where(a - 0.5 > 0, a, b))


def patterns():
    numbers = generator.integers(-50, 50, 65_537, dtype=numpy.int32)
    data = cl.array.to_device(queue, numbers)
    scan = cl.scan.InclusiveScanKernel(context, numpy.int32, "a + b", neutral="0")
    scan(data)
    tell("running sums", data.get(), numpy.cumsum(numbers))
    reduce = cl.reduction.ReductionKernel(
        context, numpy.int32, "0", reduce_expr="a > b ? a : b", map_expr="x[i] * x[i] - y[i]",
        arguments="__global const int *x, __global const int *y")
    other = cl.array.to_device(queue, numbers[::-1].copy())
    expected = (data.get().astype(int) ** 2).astype(numpy.int32) - numbers[::-1]
    tell("largest difference", reduce(data, other).get(), max(0, expected.max()))
    linear = cl.elementwise.ElementwiseKernel(context, "float a, __global float *x", "x[i] = a * x[i] + i", "linear")
    floats = cl.array.zeros(queue, 1000, numpy.float32) + 1
    linear(numpy.float32(3), floats)
    tell("linear", floats.get(), 3 + numpy.arange(1000), 1e-3)
    tell("random numbers", cl.clrandom.PhiloxGenerator(context, seed=3).uniform(queue, 10_000, numpy.float32).get())


def own_kernels():
    source = """
    typedef struct { float scale; int4 add; } parameters;
    __kernel void transpose(__global const float *in, __global float *out, __local float *tile, parameters p) {
        int x = get_global_id(0), y = get_global_id(1), n = get_global_size(0), l = get_local_size(0);
        tile[get_local_id(1) * l + get_local_id(0)] = in[y * n + x];
        barrier(CLK_LOCAL_MEM_FENCE);
        int to_x = get_group_id(1) * l + get_local_id(0), to_y = get_group_id(0) * l + get_local_id(1);
        out[to_y * n + to_x] = tile[get_local_id(0) * l + get_local_id(1)] * p.scale + p.add.w;
    }"""
    program = cl.Program(context, source).build(options=["-cl-mad-enable"])
    n, l = 256, 8
    data = generator.random((n, n), dtype=numpy.float32)
    flags = cl.mem_flags
    given = cl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=data)
    result = cl.Buffer(context, flags.WRITE_ONLY, data.nbytes)
    kind = numpy.dtype([("scale", numpy.float32), ("pad", numpy.int32, 3), ("add", numpy.int32, 4)])
    parameters = numpy.zeros((), kind)
    parameters["scale"], parameters["add"] = 2, (0, 0, 0, 5)
    event = program.transpose(
        queue, (n, n), (l, l), given, result, cl.LocalMemory(4 * l * l), parameters)
    event.wait()
    assert event.profile.end >= event.profile.start >= event.profile.submit >= event.profile.queued > 0
    out = numpy.empty_like(data)
    cl.enqueue_copy(queue, out, result)
    tell("transposed", out, data.T * 2 + 5, 1e-6)
    mapped, _ = cl.enqueue_map_buffer(queue, result, cl.map_flags.READ, 0, (n, n), numpy.float32)
    tell("mapped", mapped, out)
    mapped.base.release(queue)
    again = cl.Program(context, context.devices, program.get_info(cl.program_info.BINARIES)).build()
    again.transpose(queue, (n, n), (l, l), given, result, cl.LocalMemory(4 * l * l), parameters)
    cl.enqueue_copy(queue, out, result)
    tell("from a binary", out, data.T * 2 + 5, 1e-6)
    try:
        cl.Program(context, "__kernel void broken(").build()
    except cl.RuntimeError as error:
        print("a broken program:", error.code, "error" in str(error))
    try:
        program.transpose(queue, (n, n), (7, 7), given, result, cl.LocalMemory(4), parameters)
    except cl.LogicError as error:
        print("an uneven group:", error.code)


arrays()
patterns()
own_kernels()
