"""The page about the bench: its code runs, and prints what the page says it prints."""

import contextlib
import io
import re
from pathlib import Path

from samples import needs_nvcc

PAGE = Path(__file__).resolve().parents[1] / "README.md"


def without_names(text):
    """Of registers and labels: another version of nvcc may choose others."""
    return re.sub(r"([%$])\w+", r"\1", text)


@needs_nvcc
def test_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, printed = {}, ""
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        if language == "cuda":
            (tmp_path / re.match(r"// (\S+)", code)[1]).write_text(code)
        elif language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(code, names)
            printed = output.getvalue()
        else:
            assert without_names(printed) == without_names(code)
