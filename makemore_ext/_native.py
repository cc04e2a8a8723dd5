"""The native half: loading makemore_ext._C registers the operators of csrc/ops.cpp."""

import os
from importlib.util import find_spec
from types import ModuleType

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


def _load_autograd() -> tuple[ModuleType | None, str]:
    """What gives the operators their derivatives, and "native", or None and why not.

    makemore_ext._autograd is bound to the torch that it was built against.
    """
    choice = os.environ.get("MAKEMORE_EXT_AUTOGRAD", "native")
    if choice not in ("native", "python"):
        raise ImportError(f"MAKEMORE_EXT_AUTOGRAD must be native or python, got {choice!r}")
    if choice == "python":
        return None, "python, as MAKEMORE_EXT_AUTOGRAD asks for"
    found = torch.__version__.partition("+")[0]
    if found != torch_version:
        return None, f"python, as it was built with torch {torch_version}, found {found}"
    from makemore_ext import _autograd

    return _autograd, "native"


autograd, autograd_kind = _load_autograd()
cuda_architectures: list[str] | None = _C.cuda_architectures.split() or None
fused_mlp_steps: dict[torch.dtype, type[_C.FusedMLPFloat]] = {
    torch.float32: _C.FusedMLPFloat,
    torch.float64: _C.FusedMLPDouble,
}
