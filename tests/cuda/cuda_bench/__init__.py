"""Runs CUDA kernels without a GPU, and finds their errors.

nvcc compiles a .cu file to PTX; this package executes the PTX with numpy, one array element a
thread. docs/cuda-test-bench.md says how to use it, what it finds and what it cannot.
"""

from .device import Device
from .faults import Fault
from .floats import narrow, widen
from .memory import Buffer
from .ptx import Module, parse

__all__ = ["Buffer", "Device", "Fault", "Module", "narrow", "parse", "widen"]
