"""The network's whole training step in one native call.

The formulas, and how they are ordered to save arithmetic, stand in
csrc/cpu/fused_mlp/fused_mlp.cpp. `network.py` has the class, `checks.py` what it refuses,
`steps.py` what runs, on the CPU and on a CUDA device.
"""

from makemore_ext.fused_mlp.network import FusedMLP

__all__ = ["FusedMLP"]
