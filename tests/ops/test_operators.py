from pathlib import Path

import torch


def test_every_operator_has_a_table_of_calls():
    """One that stands in a file here, by its name."""
    tests = "".join(file.read_text() for file in Path(__file__).parent.rglob("test_*.py"))
    registered = [
        schema.name.removeprefix("makemore_ext::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("makemore_ext::")
    ]
    assert registered
    assert [name for name in registered if f'"{name}":' not in tests] == []
