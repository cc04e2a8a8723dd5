"""A model of torch's on this package's kernels, and back.

- `report.py`: what `convert` found, did and left;
- `layers.py`: one layer, which becomes another class;
- `sequential.py`: an nn.Sequential whose batch norms apply the activation that follows them;
- `swapping.py`: `convert` and `revert`, over the layers of a model;
- `calls.py`: which code of a model calls torch's functions, which `convert` cannot reach;
- `patching.py`: `patch` and `unpatch`, for those functions;
- `torch_passes.py`: torch's functions that make other layers of ours.
"""

from makemore_ext.conversion import torch_passes  # noqa: F401  they ask before they lose something
from makemore_ext.conversion.patching import patch, unpatch
from makemore_ext.conversion.report import ConversionReport
from makemore_ext.conversion.swapping import convert, revert

__all__ = ["ConversionReport", "convert", "patch", "revert", "unpatch"]
