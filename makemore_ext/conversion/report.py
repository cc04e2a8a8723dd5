"""What `convert` found, did and left."""

from dataclasses import dataclass, field


@dataclass
class ConversionReport:
    """What `convert` found, did and left, by the names of `named_modules()`; the root's is "".

    Every batch norm and cross entropy of the model is in `swapped` or `skipped`; with
    `fuse_activations` every batch norm that is this package's now is in `fused` or `unfused`.
    """

    modules: int = 0  # how many were looked at
    swapped: dict[str, str] = field(default_factory=dict)  # from what to what
    skipped: dict[str, str] = field(default_factory=dict)  # why
    fused: dict[str, str] = field(default_factory=dict)  # the name of the activation
    unfused: dict[str, str] = field(default_factory=dict)  # why
    calls: dict[str, str] = field(default_factory=dict)  # of a function of torch's, by Class.method

    def __str__(self) -> str:
        lines = [self._summary()]
        for kind in ("swapped", "skipped", "fused", "unfused", "calls"):
            for name, what in getattr(self, kind).items():
                lines.append(f"{kind} {name or '(the module itself)'}: {what}")
        return "\n".join(lines)

    def _summary(self) -> str:
        found = len(self.swapped) + len(self.skipped)
        if found == 0:
            return (
                "nothing to convert: no BatchNorm1d, 2d, 3d or CrossEntropyLoss "
                f"among {self.modules} modules"
            )
        summary = f"{len(self.swapped)} of {found} layers swapped"
        norms = len(self.fused) + len(self.unfused)
        if norms > 0:
            summary += f", {len(self.fused)} of {norms} batch norms fused with an activation"
        return summary
