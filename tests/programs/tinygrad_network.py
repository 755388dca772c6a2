#!/usr/bin/env python3
"""tinygrad trains a small network on its OpenCL back end and uses it.

The task is one that a program can make up: which of two spirals a point is on.
"""
import os
import tempfile

# A cache of its own: tinygrad's knows devices by their name, and that of a vGPU's is the host's.
os.environ["CACHEDB"] = os.path.join(tempfile.mkdtemp(), "cache.db")
os.environ.setdefault("DEV", "CL")
os.environ.setdefault("CL", "1")

import numpy
from tinygrad import Device, Tensor, TinyJit, nn
from tinygrad.helpers import Context

assert Device.DEFAULT == "CL", Device.DEFAULT
Tensor.manual_seed(1)


def spirals(points, seed):
    random = numpy.random.default_rng(seed)
    which = random.integers(0, 2, points)
    turn = numpy.sqrt(random.random(points)) * 3 * numpy.pi
    angle = turn + which * numpy.pi
    at = numpy.stack([turn * numpy.cos(angle), turn * numpy.sin(angle)], axis=1) / 10
    return Tensor(at.astype(numpy.float32)), Tensor(which.astype(numpy.int32))


class Network:
    def __init__(self):
        self.layers = [nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 2)]

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = layer(x).tanh()
        return self.layers[-1](x)


network = Network()
optimiser = nn.optim.Adam(nn.state.get_parameters(network), lr=0.01)
points, labels = spirals(512, 1)


@TinyJit
def step():
    with Context(TRAINING=1):
        optimiser.zero_grad()
        loss = network(points).sparse_categorical_crossentropy(labels).backward()
        optimiser.step()
        return loss.realize()


for number in range(300):
    loss = step().item()
    if number % 100 == 0:
        print(f"loss at step {number}: {loss:.2f}")
points, labels = spirals(512, 2)
right = (network(points).argmax(axis=1) == labels).mean().item()
print(f"points of a new set that it tells apart: {'more' if right > 0.9 else 'fewer'} than 90 in 100")

image = Tensor(numpy.linspace(-1, 1, 3 * 32 * 32, dtype=numpy.float32).reshape(1, 3, 32, 32))
weights = Tensor(numpy.sin(numpy.arange(8 * 3 * 3 * 3, dtype=numpy.float32)).reshape(8, 3, 3, 3))
features = image.conv2d(weights, padding=1).relu().max_pool2d(2).numpy()
print("a convolution:", features.shape, f"{features.sum():.1f}")
