"""The native half: loading makemore_ext._C registers the operators of csrc/ops.cpp."""

import torch

try:
    from makemore_ext import _C
except ModuleNotFoundError as error:
    raise ImportError(
        "makemore_ext._C is not built: run `pip install .` in the source folder, "
        "and import from outside it"
    ) from error

operators = torch.ops.makemore_ext
cpu_capability: str = _C.cpu_capability
torch_version: str = _C.torch_version
cuda_architectures: list[str] | None = _C.cuda_architectures.split() or None
fused_mlp_steps: dict[torch.dtype, type[_C.FusedMLPFloat]] = {
    torch.float32: _C.FusedMLPFloat,
    torch.float64: _C.FusedMLPDouble,
}
