"""Builds own_operator._C, which registers the operators with torch when it is loaded."""

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

setup(
    ext_modules=[
        CppExtension(
            "own_operator._C",
            ["csrc/squared_relu.cpp"],
            extra_compile_args=[
                "-O3",
                "-fno-trapping-math",  # so that g++ makes vectors of a loop with a condition
                "-DTORCH_TARGET_VERSION=0x020d000000000000",  # the stable ABI of torch 2.13
            ],
            py_limited_api=True,  # nothing of Python is called: one build for every version of it
        )
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
