"""The launchers of csrc/cuda called on tensors, with the bench in place of a device.

Tensors are copied to the bench's memory and back; what a kernel leaves unwritten, or reads before
it is written, is a fault.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_bench import Buffer, Device, toolkit
from cuda_bench.launchers import INCLUDE, Launchers
from torch import Tensor

OPERATIONS = Path(__file__).resolve().parents[1]
CSRC = OPERATIONS.parents[1] / "csrc"
NUMBERS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
TYPES = dict(zip(NUMBERS, ("Half", "BFloat16", "float", "double"), strict=True))
STREAM = 0x5EA  # any handle: launches must be on it

needs_nvcc = pytest.mark.skipif(toolkit.missing() is not None, reason=str(toolkit.missing()))


def launchers(
    operation: str,
    dtypes: Sequence[torch.dtype] = tuple(NUMBERS),
    csrc: Path = CSRC,
    device_csrc: Path | None = None,
    architecture: str = "8.0",
) -> Launchers:
    """Those of an operation for some dtypes, perhaps with other sources than CSRC below them.

    With `device_csrc` those are of the device code alone.
    """
    source = OPERATIONS / operation / "launchers.cu"
    defines = " ".join(f"define({TYPES[dtype]})" for dtype in dtypes)
    flags = [f"-DMAKEMORE_EXT_CUDA_DTYPES(define)={defines}"]
    kernels = device_csrc and toolkit.compile_ptx(
        source, flags=flags, include=[device_csrc, INCLUDE]
    )
    return Launchers(source, architecture, flags=flags, include=[csrc, INCLUDE], kernels=kernels)


class Unrun(Device):
    """Runs no kernel, and its arrays are zeros: what is launched is all there is to see."""

    def empty(self, shape: Any, dtype: Any, *, offset: int = 0) -> Buffer:
        return self.array(np.zeros(shape, dtype), offset=offset)

    def launch(self, *_: Any, **__: Any) -> None:
        pass


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _dtype(dtype: torch.dtype) -> Any:
    return (
        np.dtype(np.uint16)
        if dtype == torch.bfloat16
        else _numpy(torch.empty(0, dtype=dtype)).dtype
    )


class Placed:
    """A tensor in the bench's memory, with the gaps of its layout, `offset` elements unaligned."""

    def __init__(self, device: Device, tensor: Tensor, offset: int = 0, *, empty: bool = False):
        self._like = tensor
        extent = sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        )
        self._count = 0 if tensor.numel() == 0 else extent + 1
        storage = torch.as_strided(tensor, (self._count,), (1,))
        if empty:
            self.buffer: Buffer = device.empty(self._count, _dtype(tensor.dtype), offset=offset)
        else:
            self.buffer = device.array(_numpy(storage), offset=offset)

    @property
    def address(self) -> int:
        return self.buffer.address

    def tensor(self) -> Tensor:
        """What is there now; reading what nothing wrote is a fault, in the gaps it is allowed."""
        dense = self._count == self._like.numel()
        values = torch.from_numpy(self.buffer.numpy(allow_unwritten=not dense).copy())
        if self._like.dtype == torch.bfloat16:
            values = values.view(torch.bfloat16)
        return torch.as_strided(values, self._like.shape, self._like.stride())


def call(
    launchers: Launchers, device: Device, name: str, *arguments: Any, check: bool = True
) -> None:
    """Calls a launcher on STREAM; RuntimeError with what it throws."""
    code = launchers.call(device, name, *arguments, ctypes.c_void_p(STREAM), check=check)
    assert {launch.stream for launch in launchers.launched} <= {STREAM}
    if code:
        text = ctypes.create_string_buffer(1000)
        launchers.call(device, "message", text, len(text))
        raise RuntimeError(text.value.decode())


def workspaces_lack(
    launchers: Launchers, dtype: torch.dtype, shapes: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """The bytes by which the workspace of each shape, a row, is too small: at most 0 if it is not.

    The launchers are called in C++, with nothing behind their pointers, and no kernel runs.
    """
    bytes = np.full(len(shapes), 2**62)
    arguments = (NUMBERS[dtype], shapes.ctypes.data, len(shapes), bytes.ctypes.data)
    assert launchers.call(Device(), "workspaces_lack", *arguments) == 0
    return bytes
