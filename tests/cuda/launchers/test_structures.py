"""The structs that are read from csrc have the layout that the compiler gives them."""

import ctypes
import os
import shutil
import subprocess

import pytest
from launched import CSRC
from structures import TYPES, Types

COMPILER = os.environ.get("CXX", "c++").split()

SOURCE = """
constexpr int kMost = 3;
enum class Kind : int64_t { one = 1, other = 2 };

// A view; struct Other { int none; };
template <typename T>
struct View {
  T* data;  // perhaps int null;
  int64_t strides[kMost];

  HOST T* at(int64_t index) const {
    if (index > 0) {
      return data + index;
    }
    return data;
  }
  template <typename U>
  static View of(U* data);
};

struct All {
  View<const float> view;
  bool flag;
  const Compute<T>* weight;
  Kind kind;
  int pair[2];
};

template <typename T>
struct Mean {
  Compute<T> value;
};

struct Bits {
  int low : 4;
};
"""


def test_what_is_read():
    types = Types(SOURCE)
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    view, all_ = types["View"], types["All"]
    assert view._fields_ == [("data", pointer), ("strides", integer * 3)]
    assert all_._fields_ == [
        ("view", view),
        ("flag", ctypes.c_bool),
        ("weight", pointer),
        ("kind", integer),
        ("pair", ctypes.c_int * 2),
    ]
    assert types["View"] is view


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Other", KeyError, "0 structs Other"),
        ("Mean", KeyError, "0 structs Compute"),
        ("Bits", ValueError, "not understood: int low : 4"),
    ],
)
def test_what_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        Types(SOURCE)[name]


def test_no_field_is_forgotten():
    view = Types(SOURCE)["View"]
    assert view().data is None
    assert view(256, (1, 2, 3)).strides[2] == 3
    for values, named in [((256,), {}), ((), {"data": 256})]:
        with pytest.raises(TypeError, match="View has the fields data, strides"):
            view(*values, **named)


@pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="no C++ compiler")
@pytest.mark.parametrize(
    "name",
    [
        *("Matrix<float>", "RowShape", "RowView<float>", "Indices", "CrossEntropyArguments<float>"),
        *("ChannelShape", "ChannelView<float>", "BatchNormArguments<float>"),
        *("BatchNormGradients<float>", "cuda::FloatingVector", "cuda::RunningStatistics"),
    ],
)
def test_as_the_compiler_lays_it_out(name):
    read = TYPES[name.removeprefix("cuda::").removesuffix("<float>")]
    lines = [
        "#include <cstddef>",
        '#include "cuda/kernels.h"',
        f"using Type = makemore_ext::{name};",
        f"static_assert(sizeof(Type) == {ctypes.sizeof(read)});",
    ]
    for field, kind in read._fields_:
        lines += [
            f"static_assert(offsetof(Type, {field}) == {getattr(read, field).offset});",
            f"static_assert(sizeof(Type::{field}) == {ctypes.sizeof(kind)});",
        ]
    command = [*COMPILER, "-std=c++20", "-fsyntax-only", "-I", CSRC, "-x", "c++", "-"]
    subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True)
