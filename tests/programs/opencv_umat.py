#!/usr/bin/env python3
"""OpenCV's transparent OpenCL path: the same operations on UMat (the device) and on Mat (the processor)."""
import os

# Any kind of device: by itself OpenCV takes none that is a processor.
os.environ.setdefault("OPENCV_OPENCL_DEVICE", "::")

import cv2
import numpy

assert cv2.ocl.haveOpenCL(), "this OpenCV finds no OpenCL"
cv2.ocl.setUseOpenCL(True)
assert cv2.ocl.useOpenCL()

random = numpy.random.default_rng(5)
picture = cv2.GaussianBlur(random.integers(0, 256, (480, 640, 3), dtype=numpy.uint8), (9, 9), 0)
grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
floats = picture.astype(numpy.float32)
turn = cv2.getRotationMatrix2D((320, 240), 30, 1.2)
kernel = numpy.outer([1, 2, 1], [1, 2, 1]).astype(numpy.float32) / 16

OPERATIONS = {
    "grey": lambda m: cv2.cvtColor(m(picture), cv2.COLOR_BGR2GRAY),
    "blur": lambda m: cv2.GaussianBlur(m(picture), (7, 7), 1.5),
    "median": lambda m: cv2.medianBlur(m(grey), 5),
    "filter": lambda m: cv2.filter2D(m(floats), -1, kernel),
    "edges": lambda m: cv2.Canny(m(grey), 40, 120),
    "resize": lambda m: cv2.resize(m(picture), (321, 217), interpolation=cv2.INTER_LINEAR),
    "rotate": lambda m: cv2.warpAffine(m(picture), turn, (640, 480)),
    "erode": lambda m: cv2.erode(m(grey), numpy.ones((5, 5), numpy.uint8)),
    "threshold": lambda m: cv2.threshold(m(grey), 127, 255, cv2.THRESH_BINARY)[1],
    "sobel": lambda m: cv2.Sobel(m(grey), cv2.CV_16S, 1, 0),
    "pyramid": lambda m: cv2.pyrDown(m(picture)),
    "transpose": lambda m: cv2.transpose(m(grey)),
    "product": lambda m: cv2.gemm(m(floats[:64, :64, 0]), m(floats[64:128, :64, 1]), 1.0, None, 0.0),
    "absdiff": lambda m: cv2.absdiff(m(picture), m(picture[::-1].copy())),
    "histogram": lambda m: cv2.equalizeHist(m(grey)),
    "integral": lambda m: cv2.integral(m(grey)),
}

for name, operation in OPERATIONS.items():
    on_device = operation(cv2.UMat)
    assert isinstance(on_device, cv2.UMat), name
    on_device, on_processor = on_device.get().astype(float), operation(numpy.asarray).astype(float)
    scale = max(1.0, numpy.abs(on_processor).max())
    off = numpy.abs(on_device - on_processor) / scale
    # Rounding may differ by one in 255, and at edges by more in a few places.
    few = (off > 0.01).mean()
    assert few < 0.001, f"{name}: {few:.4f} of all values are off"
    print(f"{name}: {on_device.shape} mean {on_device.mean():.2f}")
print("sum:", [round(value) for value in cv2.sumElems(cv2.UMat(grey))[:1]], "non-zero:", cv2.countNonZero(cv2.UMat(grey)))
