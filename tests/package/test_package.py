"""What surrounds the kernels: import, build information, the choice of instruction set."""

import functools
import math
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from support import python

import makemore_ext as mx

ROOT = Path(__file__).resolve().parents[2]
ONE_ARCHITECTURE = {"TORCH_CUDA_ARCH_LIST": "7.5+PTX"}
NOT_IN_ARCHIVE = (".ci", ".github", ".gitignore")
ONE_LOSS = """
import torch, makemore_ext as mx
print(mx.__file__, mx.cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1])).item())
"""


def test_import_needs_torch_alone():
    code = """
import sys, torch
before = set(sys.modules)
import makemore_ext
print(*{name.split(".")[0] for name in set(sys.modules) - before})
"""
    imported = set(python(code).stdout.split())
    assert "makemore_ext" in imported
    assert imported - {"makemore_ext"} <= set(sys.stdlib_module_names)


def test_build_info():
    info = mx.build_info()
    assert info["version"] == mx.__version__
    assert tuple(map(int, info["torch"].split(".")[:2])) >= (2, 13)
    assert info["cpu_capability"] in ("default", "avx2", "avx512")


CAPABILITY = "import makemore_ext; print(makemore_ext.build_info()['cpu_capability'])"


def test_capability_can_be_forced():
    result = python(CAPABILITY, MAKEMORE_EXT_CPU_CAPABILITY="default")
    assert result.stdout.strip() == "default"


@pytest.mark.parametrize("value", ["AVX2", "no"])
def test_unknown_capability(value):
    result = python(CAPABILITY, MAKEMORE_EXT_CPU_CAPABILITY=value)
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: MAKEMORE_EXT_CPU_CAPABILITY must be one of 'default'")
    assert message.endswith(f" on this processor, got '{value}'")


def test_the_kernels_of_both_capabilities_agree():
    code = """
import torch, makemore_ext as mx
x = torch.randn(37, 29, generator=torch.Generator().manual_seed(0), requires_grad=True)
y = mx.batch_norm(x, None, None, training=True, activation="tanh")
loss = mx.cross_entropy(5 * y, torch.arange(37) % 29)
loss.backward()
print(loss.item(), *x.grad.flatten().tolist())
"""
    outputs = [
        python(code, MAKEMORE_EXT_CPU_CAPABILITY=value).stdout.split() for value in ("default", "")
    ]
    default, best = (torch.tensor([float(v) for v in output]) for output in outputs)
    assert len(default) == 1 + 37 * 29
    torch.testing.assert_close(default, best)


# An editable installation has a finder of its own, which would add what is missing.
FROM_PATH_ALONE = "sys.meta_path = [f for f in sys.meta_path if 'Editable' not in repr(f)]"
UNUSABLE = {
    "not built": ("", "makemore_ext._C is not built for this Python: run `pip install"),
    "old torch": (
        "import torch; torch.__version__ = '2.12.1+cpu'; ",
        "makemore_ext needs torch 2.13 or later, found 2.12.1+cpu: run `pip install",
    ),
}


@pytest.mark.parametrize(("before", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_import_of_what_cannot_be_used(before, message, tmp_path):
    """Sources without the native half: it is neither found nor, before torch is fit, asked for."""
    package = tmp_path / "makemore_ext"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "makemore_ext", package, ignore=ignore)
    code = f"{before}import sys; sys.path.insert(0, {str(tmp_path)!r}); {FROM_PATH_ALONE}"
    assert (
        python(f"{code}; import makemore_ext")
        .stderr.strip()
        .splitlines()[-1]
        .startswith(f"ImportError: {message}")
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = "pip wheel --quiet --no-build-isolation --no-deps --wheel-dir"
    subprocess.run(
        [sys.executable, "-m", *command.split(), folder, ROOT],
        env={**ONE_ARCHITECTURE, **os.environ},  # as in the Makefile: built already
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


@pytest.mark.long
def test_the_source_archive_builds(tmp_path):
    """It holds what git does, and becomes a wheel that works.

    Ninja compiles again what was not compiled here from the same sources by the same commands.
    """
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path]
    run([*build, "--sdist", ROOT])
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    tracked = run(["git", "ls-files"], cwd=ROOT).stdout.split()
    missing = [name for name in tracked if not (source / name).exists()]
    assert [name for name in missing if name.partition("/")[0] not in NOT_IN_ARCHIVE] == []

    shutil.copytree(ROOT / "build/objects", source / "build/objects")
    run([*build, "--wheel", source], env={**os.environ, **ONE_ARCHITECTURE})
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r})"
    file, loss = python(code + ONE_LOSS).stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert float(loss) == pytest.approx(math.log(2))


def test_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"makemore_ext"}
    assert not [name for name in names if name.endswith((".cpp", ".h", ".cu", ".cuh", ".o"))]
    assert "makemore_ext/makemore/names.txt" in names
    assert "makemore_ext/py.typed" in names


def test_wheel_holds_no_path_of_the_machine_that_built_it(wheel):
    archive = zipfile.ZipFile(wheel)
    places = [str(ROOT), sys.prefix]
    for name in archive.namelist():
        content = archive.read(name)
        for place in places:
            assert place.encode() not in content, f"{place} in {name}"


AUTOGRAD = """
import torch
torch.__version__ = {version!r}
import makemore_ext
print(makemore_ext.build_info()["autograd"])
"""


@pytest.mark.skipif(
    torch.__version__.partition("+")[0] != mx.build_info()["torch"],
    reason="built with another torch",
)
@pytest.mark.parametrize(
    ("choice", "version", "said"),
    [
        ("native", torch.__version__, "native"),
        ("python", torch.__version__, "python, as MAKEMORE_EXT_AUTOGRAD asks for"),
        (
            "native",
            "99.1.0+cpu",
            f"python, as it was built with torch {mx.build_info()['torch']}, found 99.1.0",
        ),
    ],
)
def test_autograd_is_native_on_the_torch_that_it_was_built_with(choice, version, said):
    run = python(AUTOGRAD.format(version=version), MAKEMORE_EXT_AUTOGRAD=choice)
    assert run.stdout.strip() == said


def test_no_such_autograd():
    run = python("import makemore_ext", MAKEMORE_EXT_AUTOGRAD="mine")
    assert "MAKEMORE_EXT_AUTOGRAD must be native or python, got 'mine'" in run.stderr
