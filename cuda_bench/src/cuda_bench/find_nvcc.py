"""Finds nvcc. Run as a script it prints the folder of its toolkit, and fails where there is none.

It needs nothing but Python, so that builds can run it too, by its path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def find_toolkit() -> Path | None:
    """The toolkit that CUDA_HOME, CUDA_PATH, PATH, /usr/local or pip has; None without nvcc."""
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if nvcc := shutil.which("nvcc"):  # it may be a script that starts another, which says where
        said = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True)
        homes += [Path(top) for top in re.findall(r"TOP=(.*)", said.stderr.decode())]
        homes.append(Path(nvcc).resolve().parents[1])
    homes.append(Path("/usr/local/cuda"))
    homes += sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*"))
    return next((home.resolve() for home in homes if (home / "bin" / "nvcc").is_file()), None)


if __name__ == "__main__":
    if found := find_toolkit():
        print(found)
    sys.exit(found is None)
