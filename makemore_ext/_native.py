"""The native half: loading makemore_ext._C registers the operators of csrc/ops.cpp."""

from importlib.util import find_spec

import torch

TORCH_MINIMUM = (2, 13)

# Said here, since the loader would only name a symbol that an older torch lacks.
if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH_MINIMUM:
    raise ImportError(
        f"makemore_ext needs torch 2.13 or later, found {torch.__version__}: "
        "run `pip install --upgrade torch`"
    )
if find_spec("makemore_ext._C") is None:
    raise ImportError(
        "makemore_ext._C is not built for this Python: run `pip install --no-build-isolation .` "
        "in the source folder, and import from outside it"
    )

from makemore_ext import _C  # noqa: E402

operators = torch.ops.makemore_ext
cpu_capability: str = _C.cpu_capability
torch_version: str = _C.torch_version
cuda_architectures: list[str] | None = _C.cuda_architectures.split() or None
fused_mlp_steps: dict[torch.dtype, type[_C.FusedMLPFloat]] = {
    torch.float32: _C.FusedMLPFloat,
    torch.float64: _C.FusedMLPDouble,
}
