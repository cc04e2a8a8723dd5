"""The CUDA half of the extension as far as it shows without a device."""

import pytest
import torch
from click.testing import CliRunner

import makemore_ext as mx
from makemore_ext.cli.info import info
from makemore_ext.ops import tensors

OPERATORS = (
    "cross_entropy_forward",
    "cross_entropy_forward_with_gradient",
    "cross_entropy_backward",
    "cross_entropy_backward_",
    "cross_entropy_scale_",
    "batch_norm_forward",
    "batch_norm_forward_and_update",
    "batch_norm_backward",
    "embedding_backward",
)
architectures = mx.build_info()["cuda_architectures"]
needs_cuda_build = pytest.mark.skipif(
    architectures is None, reason="this build has no CUDA kernels"
)


@needs_cuda_build
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("key", ["CPU", "CUDA"])
def test_registered(name, key):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"makemore_ext::{name}", key)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_scale_passes_opcheck(dtype):
    factor = torch.tensor(0.5, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    operator = torch.ops.makemore_ext.cross_entropy_scale_.default
    target = torch.tensor([0, 1, 2, 0])
    torch.library.opcheck(operator, (torch.rand(4, 3).to(dtype), factor, target, 0))


@pytest.mark.parametrize(
    ("gradient", "factor", "message"),
    [
        (torch.ones(3, dtype=torch.int64), torch.ones(()), "gradient must be float16"),
        (torch.ones(3), torch.ones(()).double(), "factor must be float32, got float64"),
        (torch.ones(3), torch.ones(3), "factor must have 0 dimensions"),
        (torch.ones(6)[::2], torch.ones(()), "gradient must be dense"),
    ],
)
def test_scale_refuses(gradient, factor, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.makemore_ext.cross_entropy_scale_(gradient, factor, torch.tensor(0), -100)


@needs_cuda_build
def test_architectures():
    assert all(float(name.removesuffix("+PTX")) >= 7.5 for name in architectures)
    result = CliRunner().invoke(info)
    assert result.exit_code == 0
    assert all(name in result.output for name in architectures)


@pytest.mark.parametrize(
    ("device", "built", "message"),
    [
        ("cpu", None, None),
        ("meta", None, None),
        ("cuda:1", ["8.0"], None),
        ("cuda:1", None, "input must be on the CPU, as this build .* no CUDA kernels, got cuda:1"),
        ("xpu", ["8.0"], "input must be on the CPU or a CUDA device, got xpu"),
    ],
)
def test_devices(device, built, message, monkeypatch):
    monkeypatch.setattr(tensors, "cuda_architectures", built)
    if message is None:
        tensors.check_device("input", torch.device(device))
    else:
        with pytest.raises(NotImplementedError, match=message):
            tensors.check_device("input", torch.device(device))


OUTSIDE = {
    "negative": ([0, -1, 2], None, r"target must hold indices in \[0, 5\), got -1 in row 1"),
    "too large": ([0, 1, 5], None, r"target must hold indices in \[0, 5\), got 5 in row 2"),
    "not ignored": ([-100, 1, 7], -100, r"target must hold indices in \[0, 5\), got 7 in row 2"),
    "of several dimensions": ([[0, 1], [2, 9]], None, r"got 9 in row \[1, 1\]"),
    "one alone": (9, None, r"got 9 in row \[\]"),
}


@pytest.mark.parametrize(("indices", "ignored", "message"), OUTSIDE.values(), ids=OUTSIDE)
def test_indices_outside(indices, ignored, message):
    with pytest.raises(IndexError, match=message):
        tensors.check_indices("target", torch.tensor(indices), 5, ignored)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_indices_inside(dtype):
    tensors.check_indices("target", torch.tensor([0, 4, 255], dtype=dtype), 5, 255)


@pytest.mark.parametrize(("value", "asked"), [("1", True), ("0", False), (None, False)])
def test_indices_are_looked_at_when_asked(value, asked, monkeypatch):
    monkeypatch.delenv("MAKEMORE_EXT_CHECK", raising=False)
    if value is not None:
        monkeypatch.setenv("MAKEMORE_EXT_CHECK", value)
    assert tensors.checks_cuda_indices() is asked
