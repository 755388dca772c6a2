#!/usr/bin/env python3
"""reikna's transforms, matrix products and reductions on OpenCL, checked against numpy."""
import numpy
from reikna import cluda
from reikna.algorithms import PureParallel, Reduce, predicate_sum
from reikna.core import Annotation, Parameter
from reikna.fft import FFT
from reikna.linalg import MatrixMul

api = cluda.ocl_api()
thread = api.Thread(api.get_platforms()[0].get_devices()[0])
random = numpy.random.default_rng(11)


def tell(what, got, expected):
    off = numpy.abs(got - expected).max() / numpy.abs(expected).max()
    assert off < 1e-4, f"{what}: off by {off}"
    print(f"{what}: {got.dtype} {got.shape} right")


wave = (random.random((32, 128)) + 1j * random.random((32, 128))).astype(numpy.complex64)
on_device = thread.to_device(wave)
FFT(on_device, axes=(0, 1)).compile(thread)(on_device, on_device)
tell("two-dimensional transform", on_device.get(), numpy.fft.fft2(wave))

a, b = (random.random(shape).astype(numpy.float32) for shape in ((60, 90), (90, 30)))
product = thread.empty_like(Parameter("c", Annotation(numpy.empty((60, 30), numpy.float32))).annotation.type)
MatrixMul(thread.to_device(a), thread.to_device(b), out_arr=product).compile(thread)(
    product, thread.to_device(a), thread.to_device(b))
tell("matrix product", product.get(), a @ b)

numbers = thread.to_device(a)
sums = Reduce(numbers, predicate_sum(numpy.float32), axes=(0,)).compile(thread)
out = thread.empty_like(sums.parameter.output)
sums(out, numbers)
tell("sums of columns", out.get(), a.sum(axis=0))

squares = PureParallel(
    [Parameter("to", Annotation(numbers, "o")), Parameter("of", Annotation(numbers, "i"))],
    "float x = ${of.load_idx}(${idxs[0]}, ${idxs[1]}); ${to.store_idx}(${idxs[0]}, ${idxs[1]}, x * x);",
    guiding_array="to").compile(thread)
result = thread.empty_like(numbers)
squares(result, numbers)
tell("squares", result.get(), a * a)
