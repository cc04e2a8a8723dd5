"""Checks of arguments that are not tensors; those of tensors are in ops/tensors.py."""


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raises ValueError, with what is allowed, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name}: must be {allowed}, got {value!r}")


def is_integer(value: object, minimum: int) -> bool:
    """Whether `value` is an integer of at least `minimum`."""
    return isinstance(value, int) and value >= minimum
