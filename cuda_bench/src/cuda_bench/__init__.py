"""Runs CUDA kernels without a GPU, and finds their errors.

nvcc compiles a .cu file to PTX; this package executes the PTX with numpy, one array element a
thread. README.md says how to use it, what it finds and what it cannot.

Here and in the modules beside this one is what tests call. They stand on four packages, each of
which uses none but those before it: ptx reads PTX, arithmetic is what instructions compute, checks
watches memory and branches, execution runs the threads.
"""

from .arithmetic.floats import narrow, widen
from .checks.coverage import Coverage
from .checks.memory import Buffer
from .device import Device
from .faults import Fault
from .ptx.parser import Module, parse

__all__ = ["Buffer", "Coverage", "Device", "Fault", "Module", "narrow", "parse", "widen"]
