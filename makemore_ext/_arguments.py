"""Checks of arguments that are not tensors; those of tensors are in ops/tensors.py."""


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raises ValueError, with what is allowed, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def require_integer(name: str, value: object, *, minimum: int) -> None:
    """Raises ValueError unless `value` is an integer of at least `minimum`."""
    fits = isinstance(value, int) and value >= minimum
    require(fits, name, value, f"an integer of at least {minimum}")
