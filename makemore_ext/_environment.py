"""What a measurement depends on: versions, processor and threads."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

import makemore_ext


def environment() -> dict[str, Any]:
    """What `makemore-ext info` prints and every JSON file carries."""
    build = makemore_ext.build_info()
    return {
        "makemore_ext": build["version"],
        "torch": torch.__version__,
        "built_against_torch": build["torch"],
        "cpu_capability": build["cpu_capability"],
        "cuda_architectures": build["cuda_architectures"],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
