"""Runs host code: the launchers of a .cu file, with a stand-in for the CUDA runtime under them.

The launcher is nvcc's own host code. Its grid, block, shared size, stream and arguments are what
the kernel gets, so a wrong cast, a swapped argument or a grid that is too small shows.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import toolkit
from .checks.memory import Buffer
from .device import SHARED_LIMITS, Device
from .faults import Fault
from .ptx import parser

HOST_ARCHITECTURE = "8.0"  # nvcc makes PTX on the way to the host code: this one's
INCLUDE = Path(__file__).parent  # of cudart.h, for launchers that look at launches themselves
STAND_IN = INCLUDE / "cudart.cpp"
INVALID_VALUE, INVALID_CONFIGURATION, NOT_PERMITTED, LAUNCH_FAILURE = 1, 9, 800, 719

# Values for cudaDeviceGetAttribute by cudaDeviceAttr's numbers: those of a small device.
ATTRIBUTES = {
    1: 1024,  # threads a block
    2: 1024,  # block x
    3: 1024,  # block y
    4: 64,  # block z
    5: 2**31 - 1,  # grid x
    6: 65535,  # grid y
    7: 65535,  # grid z
    8: 48 * 1024,  # shared memory a block
    10: 32,  # warp size
    12: 65536,  # registers a block
    16: 4,  # multiprocessors
    38: 4 * 2**20,  # bytes of second-level cache
    39: 1024,  # threads a multiprocessor
    81: 64 * 1024,  # shared memory a multiprocessor
    106: 16,  # blocks a multiprocessor
}
CAPABILITY_MAJOR, CAPABILITY_MINOR, OPT_IN_SHARED = 75, 76, 97


@dataclass(frozen=True)
class Launched:
    """One kernel launch, as the launcher made it."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    stream: int
    arguments: tuple[bytes, ...] = field(default=(), repr=False, compare=False)


class _Dim3(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


_FUNCTIONS = {
    "launch": ctypes.CFUNCTYPE(
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.POINTER(_Dim3),
        ctypes.POINTER(_Dim3),
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_void_p),
    ),
    "fill": ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    ),
    "copy": ctypes.CFUNCTYPE(
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_void_p,
    ),
    "device_attribute": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int),
    "set_shared": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int),
    "refuse": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p),
}


class _Bench(ctypes.Structure):
    _fields_ = tuple(_FUNCTIONS.items())


@functools.cache
def _stand_in() -> tuple[Path, ctypes.CDLL]:
    target = toolkit.CACHE / f"libbench_{toolkit.key(STAND_IN)}.so"
    flags = ["-shared", "-fPIC", "-O1", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
    toolkit.make(
        target,
        lambda partial: toolkit.run(
            ["g++", *flags, f"-Wl,-soname,{target.name}", STAND_IN, "-o", partial]
        ),
    )
    return target, ctypes.CDLL(str(target))


class Launchers:
    """The extern "C" functions of a .cu file; its kernels, or those of some other PTX."""

    def __init__(
        self,
        source: Path,
        architecture: str = "8.0",
        *,
        flags: Sequence[str] = (),
        include: Sequence[Path] = (),
        kernels: Path | None = None,
    ) -> None:
        path, self._runtime = _stand_in()
        library, text = _compile(source, path, flags, include)
        if kernels is not None:
            text = kernels
        elif architecture != HOST_ARCHITECTURE:  # the host code is the same for all
            text = toolkit.compile_ptx(source, architecture, flags=flags, include=include)
        self.module = parser.parse(text.read_text())
        self.architecture = architecture
        # Its own libraries first: the process may hold the real CUDA runtime.
        self._library = ctypes.CDLL(str(library), mode=os.RTLD_NOW | os.RTLD_DEEPBIND)
        self.launched: list[Launched] = []  # by the last call
        self._device = Device()
        self._fault: Fault | None = None
        self._callbacks = {
            name: kind(getattr(self, f"_{name}")) for name, kind in _FUNCTIONS.items()
        }
        self._table = _Bench(**self._callbacks)

    def call(self, device: Device, name: str, *arguments: Any, check: bool = True) -> int:
        """Calls a launcher; its kernels run before it returns. Raises the first fault.

        Buffers are passed as pointers, None as a null pointer, integers in 64 bits (which also
        serves narrower integers), numpy scalars and ctypes values as what they are.
        Without `check` a fault is only the error code that the runtime returns.
        """
        self._device, self._fault, self.launched = device, None, []
        self._runtime.bench_set(ctypes.byref(self._table))
        function = self._library[name]
        function.restype = ctypes.c_int
        code: int = function(*[_convert(argument) for argument in arguments])
        if check and self._fault is not None:
            raise self._fault
        return code

    def _guarded(self, work: Any, error: int) -> int:
        try:
            work()
        except Fault as fault:
            self._fault = self._fault or fault
            return INVALID_CONFIGURATION if fault.kind == "launch" else error
        return 0

    def _launch(
        self, kernel: bytes, grid: Any, block: Any, shared: int, stream: int | None, held: Any
    ) -> int:
        name = kernel.decode()
        function = self.module.functions[name]
        arguments = tuple(
            ctypes.string_at(held[index], parameter.size)
            for index, parameter in enumerate(function.parameters)
        )
        sizes = [(size[0].x, size[0].y, size[0].z) for size in (grid, block)]
        self.launched.append(Launched(name, sizes[0], sizes[1], shared, stream or 0, arguments))
        return self._guarded(
            lambda: self._device.launch(
                self.module, function, sizes[0], sizes[1], arguments, shared=shared
            ),
            LAUNCH_FAILURE,
        )

    def _fill(self, target: int, value: int, size: int, stream: int | None) -> int:
        return self._guarded(lambda: self._device.fill(target or 0, value, size), INVALID_VALUE)

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int | None) -> int:
        def work() -> None:
            if kind not in (3, 4):
                raise Fault("unsupported", f"cudaMemcpyAsync of kind {kind}, not within the device")
            self._device.copy(target or 0, source or 0, size)

        return self._guarded(work, INVALID_VALUE)

    def _device_attribute(self, attribute: int) -> int:
        major, minor = self.architecture.split(".")
        known = {
            **ATTRIBUTES,
            CAPABILITY_MAJOR: int(major),
            CAPABILITY_MINOR: int(minor),
            OPT_IN_SHARED: SHARED_LIMITS[self.architecture],
        }
        if attribute not in known:
            self._fault = self._fault or Fault("unsupported", f"device attribute {attribute}")
        return known.get(attribute, -1)

    def _set_shared(self, kernel: bytes, size: int) -> int:
        if size > SHARED_LIMITS[self.architecture]:
            return INVALID_VALUE
        self._device.shared_sizes[kernel.decode()] = size
        return 0

    def _refuse(self, function: bytes) -> int:
        fault = Fault("launch", f"{function.decode()} in a launcher: no CUDA graph could hold it")
        self._fault = self._fault or fault
        return NOT_PERMITTED


def _convert(argument: Any) -> Any:
    if isinstance(argument, Buffer):
        return ctypes.c_void_p(argument.address)
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, bool | int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    if isinstance(argument, np.generic):
        exact: Any = np.ctypeslib.as_ctypes_type(argument.dtype.str)  # type: ignore[call-overload]
        return exact(argument.item())
    return argument


def _compile(
    source: Path,
    stand_in: Path,
    flags: Sequence[str],
    include: Sequence[Path],
) -> tuple[Path, Path]:
    """The library with the host code, and the PTX that nvcc made on the way."""
    options = [*toolkit.FLAGS, *flags, *(f"-I{path}" for path in include)]
    name = toolkit.key(source, "launchers", stand_in.name, *options, include=include)
    library, text = toolkit.CACHE / f"{name}.so", toolkit.CACHE / f"{name}.ptx"
    compute = f"compute_{HOST_ARCHITECTURE.replace('.', '')}"

    def build(partial: Path) -> None:
        command: list[str | Path] = [toolkit.nvcc(), *options]
        command += [f"-gencode=arch={compute},code={compute}", "-shared", "-cudart", "none"]
        command += ["-Xcompiler", "-fPIC", "--keep", "--keep-dir", partial.parent]
        command += ["-Xlinker", stand_in, "-Xlinker", f"-rpath={stand_in.parent}"]
        toolkit.run([*command, source, "-o", partial])
        (partial.parent / f"{source.stem}.ptx").replace(text)

    toolkit.make(library, build)
    return library, text
