#!/usr/bin/env python3
"""LightGBM grows trees on OpenCL, and predicts with them."""
import lightgbm
import numpy

random = numpy.random.default_rng(3)
points = random.random((4000, 12)).astype(numpy.float32)
labels = (numpy.sin(6 * points[:, 0]) + points[:, 1] ** 2 > 0.8).astype(int)
parameters = {"objective": "binary", "device": "gpu", "gpu_platform_id": 0, "gpu_device_id": 0, "num_leaves": 15,
              "max_bin": 63, "verbosity": -1, "seed": 1, "deterministic": True, "gpu_use_dp": True}
trees = lightgbm.train(parameters, lightgbm.Dataset(points[:3000], labels[:3000]), 30)
right = ((trees.predict(points[3000:]) > 0.5) == labels[3000:]).mean()
assert right > 0.95, right
print(f"trees: {trees.num_trees()}, right: {right:.3f}, features: {trees.feature_importance().argsort()[-2:].tolist()}")
