"""What nvcc makes of each feature of the language runs, and gives what C++ says, for old and new
architectures: their PTX differs."""

import math

import numpy as np
import pytest
from cuda_bench import Device, Fault, narrow, widen
from samples import kernels, needs_nvcc

pytestmark = needs_nvcc

ARCHITECTURES = ["7.5", "8.0", "9.0", "12.0"]
THREADS = 64
RNG = np.random.default_rng(0)
INTEGERS = RNG.integers(-99, 100, THREADS).astype(np.int32)
FLOATS = RNG.uniform(0.1, 5, THREADS).astype(np.float32)


@pytest.fixture(params=ARCHITECTURES)
def module(request):
    return kernels("features.cu", request.param)


def run(module, name, inputs, shape, dtype, *, grid=1, block=THREADS, arguments=(), **options):
    """Launches a kernel of arrays followed by one result, and further arguments."""
    device = Device(**options)
    result = device.empty(shape, dtype)
    arrays = [device.array(values) for values in inputs]
    device.launch(module, name, grid, block, [*arrays, result, *arguments])
    return result.numpy()


def test_shuffles(module):
    y = run(module, "shuffles", [INTEGERS], (THREADS, 6), np.int32)
    lane, warp = np.arange(THREADS) % 32, np.arange(THREADS) // 32 * 32
    down = np.where(lane % 16 + 2 < 16, lane + 2, lane)
    sources = [5, lane // 8 * 8 + 3, np.maximum(lane, lane - 3 + 3 * (lane < 3)) - 3 * (lane >= 3),
               down, lane ^ 9, lane ^ 1]  # fmt: skip
    for column, source in enumerate(sources):
        assert (y[:, column] == INTEGERS[warp + source]).all()


def test_votes(module):
    y = run(module, "votes", [INTEGERS], (THREADS, 6), np.uint32)
    for warp in range(2):
        x, mine = INTEGERS[warp * 32 : warp * 32 + 32], y[warp * 32 : warp * 32 + 32]

        def mask(chosen):
            return sum(1 << lane for lane in np.flatnonzero(chosen))

        assert (mine[:, 0] == mask(x > 0)).all()
        assert (mine[:, 1] == (x > 90).any()).all()
        assert (mine[:, 2] == (x > -90).all()).all()
        assert mine[:, 3].tolist() == [mask((x & 3) == (value & 3)) for value in x]
        assert (mine[:, 4] == 2**32 - 1).all()
        assert (mine[:, 5] == np.where(x > 0, mask(x > 0), 0)).all()


@pytest.mark.parametrize("architecture", ["8.0", "12.0"])
def test_warp_reductions(architecture):
    module = kernels("features.cu", architecture)
    y = run(module, "warp_reductions", [INTEGERS], (THREADS, 4), np.int32)
    for first in (0, 32):
        x = INTEGERS[first : first + 32]
        unsigned = x.view(np.uint32)
        expected = [x.sum(), x.max(), unsigned.min().view(np.int32), np.bitwise_xor.reduce(x)]
        assert (y[first : first + 32] == expected).all()


@pytest.mark.parametrize("x", [INTEGERS, np.ones(THREADS, np.int32), np.zeros(THREADS, np.int32)])
def test_barrier_reductions(module, x):
    y = run(module, "barrier_reductions", [x], (THREADS, 3), np.int32)
    assert (y == [(x > 0).sum(), (x > 0).all(), (x > 0).any()]).all()


def test_lane_masks(module):
    y = run(module, "lane_masks", [], (50, 3), np.uint32, block=50)
    lane = np.arange(50) % 32
    assert (y == np.stack([lane, 2**lane - 1, np.arange(50) // 32], 1)).all()


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
def test_atomics(module, order):
    device = Device(order=order)
    x = np.random.default_rng(1).integers(-99, 100, 3 * THREADS).astype(np.int32)
    start = {"i": [0, 0, 0, 0], "u": [2**32 - 1, 0, 0, 4, 5], "f": [0], "d": [0], "l": [0, 0]}
    dtypes = {"i": np.int32, "u": np.uint32, "f": np.float32, "d": np.float64, "l": np.uint64}
    held = {name: device.array(np.array(start[name], dtypes[name])) for name in start}
    device.launch(module, "atomics", 3, THREADS, [device.array(x), *held.values()])
    got = {name: buffer.numpy() for name, buffer in held.items()}
    bits = x.view(np.uint32)
    assert got["i"].tolist() == [x.sum(), min(x.min(), 0), max(x.max(), 0), -x.sum()]
    assert got["u"][:3].tolist() == [
        int(function.reduce(bits)) for function in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)
    ]
    assert got["u"][3:].tolist() == [(4 + len(x)) % 11, (5 - len(x)) % 11]
    assert (got["f"], got["d"]) == (x.sum(), x.sum())
    assert got["l"].tolist() == [int(x.sum()) % 2**64, int(bits.max())]


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
def test_tickets_are_given_out_in_the_launch_order(module, order):
    y = np.zeros((3, THREADS), np.uint32)
    device = Device(order=order)
    result, following = device.array(y), device.array(np.zeros(1, np.uint32))
    device.launch(module, "tickets", 3, THREADS, [following, result])
    tickets = result.numpy().reshape(-1)
    assert sorted(tickets) == list(range(3 * THREADS))
    in_order = {"forward": np.arange(192), "reversed": np.arange(192)[::-1]}
    assert (
        (tickets == in_order[order]).all() if order in in_order else (tickets != range(192)).any()
    )


def test_compare_and_swap(module):
    device = Device()
    x = np.random.default_rng(2).uniform(0, 9, 2 * THREADS).astype(np.float32)
    largest = device.array(np.zeros(1, np.uint32))
    device.launch(module, "compare_and_swap", 2, THREADS, [device.array(x), largest])
    assert largest.numpy().view(np.float32)[0] == x.max()


@pytest.mark.parametrize("architecture", ["8.0", "9.0"])
def test_narrow_atomics(architecture):
    device = Device()
    x = np.random.default_rng(2).integers(-3, 4, THREADS).astype(np.float32)
    half = device.array(np.zeros(2, np.float16))
    brain = device.array(np.zeros(2, np.uint16))
    module = kernels("features.cu", architecture)
    device.launch(module, "narrow_atomics", 1, THREADS, [device.array(x), half, brain])
    assert (half.numpy() == x.sum()).all()
    assert architecture == "8.0" or (widen(brain.numpy(), "bf16") == x.sum()).all()


def test_a_structure_as_argument(module):
    options = np.zeros(1, [("scale", "f4"), ("shift", "i4"), ("offset", "f8")])
    options["scale"], options["shift"], options["offset"] = 3, 5, 0.5
    device = Device()
    y = device.empty(THREADS, np.float32)
    arguments = [device.array(FLOATS), y, options.tobytes()]
    device.launch(module, "structure", 1, THREADS, arguments)
    assert (y.numpy() == np.roll(FLOATS, -5) * np.float32(3) + np.float32(0.5)).all()


def test_a_parameter_by_its_address(module):
    table = np.array([3, -1, 0, 7, 2, 4])  # five steps, and their number
    device = Device()
    y = device.empty(THREADS, np.float32)
    arguments = [device.array(FLOATS), y, table.tobytes()]
    device.launch(module, "parameter_by_address", 1, THREADS, arguments)
    assert (y.numpy() == FLOATS * table[np.arange(THREADS) % 4].astype(np.float32)).all()


def test_module_variables(module):
    device = Device()
    y = device.empty(THREADS, np.float32)
    for _ in range(2):
        device.launch(module, "module_variables", 1, THREADS, [device.array(FLOATS), y])
    assert (y.numpy() == FLOATS * np.tile(np.array([1, 2, 0.5, -1], "f"), THREADS // 4)).all()
    assert device.variable(module, "calls").numpy().view(np.int32)[0] == 7 + 2 * THREADS


def test_generic_pointers_and_a_function_that_is_not_inlined(module):
    y = run(module, "generic_pointers", [FLOATS], THREADS, np.float32)
    sums = np.cumsum(FLOATS.astype(np.float64))
    np.testing.assert_allclose(y, np.where(np.arange(THREADS) % 2, 2 * sums, sums), rtol=1e-6)


def test_wide_and_narrow_elements(module):
    device = Device()
    x = np.random.default_rng(3).standard_normal((THREADS, 5))
    c = np.random.default_rng(4).integers(-128, 128, (THREADS, 4)).astype(np.int8)
    y, s = device.empty((THREADS, 5), np.float64), device.empty((THREADS, 2), np.int16)
    device.launch(module, "wide_elements", 1, THREADS, [device.array(x), y, device.array(c), s])
    assert (y.numpy() == x + np.array([0, 0, 0, 1, 0])).all()
    wide = c.astype(np.int16)
    assert (s.numpy() == np.stack([wide[:, 0] + wide[:, 1], wide[:, 2] * wide[:, 3]], 1)).all()


@pytest.mark.parametrize("wait", [False, True])
def test_copies_ahead(module, wait):
    x = RNG.standard_normal((2, THREADS, 4)).astype(np.float32)
    if wait or module.target == "sm_75":  # before 8.0 the copy is an ordinary one
        y = run(module, "copies_ahead", [x], THREADS, np.float32, arguments=[True])
        np.testing.assert_allclose(y, x.sum((0, 2))[::-1], rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(Fault, match="uninitialised"):
            run(module, "copies_ahead", [x], THREADS, np.float32, arguments=[False])


def branched(values):
    """The kernel `branches`, a thread at a time; case 4 reads any lane and multiplies it by 0."""
    for value in map(int, values):
        remainder = math.fmod(value, 7)
        if remainder == 0:
            value = value * 3 + 1
        elif remainder == 1:
            value = int(value / 2)
        elif remainder == 2:
            value -= 100
        elif remainder == 3:
            value ^= 0x55
        elif remainder == 4:
            value = 44
        elif remainder == 5:
            while value > 10:
                value -= 10
        else:
            value = -value
        for i in range(20):
            if value % 2 == 0:
                continue
            if value > 1000:
                break
            value += i
            if value == 50 and i == 3:
                value = -1
                break
        yield value


def test_branches(module):
    x = np.arange(-10, 54, dtype=np.int32) * 7 // 3
    x[x % 7 == 4] = 11  # whoever is in that branch must include lane 0
    x[[0, 32]] = 4
    y = run(module, "branches", [x], THREADS, np.int32)
    assert y.tolist() == list(branched(x))


def test_a_call_with_a_reference(module):
    def collatz(value):
        largest, steps = 0, 0
        while value != 1:
            value = 3 * value + 1 if value % 2 else value // 2
            largest, steps = max(largest, value), steps + 1
            if steps > 40:
                return -1, largest
        return steps, largest

    x = np.arange(1, THREADS + 1, dtype=np.int32)
    y = run(module, "calls_a_function", [x], (THREADS, 2), np.int32, allow_local_memory=True)
    assert y.tolist() == [list(collatz(value)) for value in x.tolist()]


def test_printf(module):
    device = Device(allow_local_memory=True)
    device.launch(module, "prints", 1, THREADS, [device.array(np.array([THREADS], np.int32))])
    assert device.printed == ["thread 0 of 64: 0.25 done\n", "thread 32 of 64: 0.25 done\n"]


@pytest.mark.parametrize("order", ["forward", "reversed"])
def test_coordinates(module, order):
    grid, block = (3, 2, 4), (5, 3, 2)
    y = run(
        module, "coordinates", [], 24 * 30, np.uint32, grid=grid, block=block, order=order,
        concurrent_blocks=5,
    )  # fmt: skip
    bz, by, bx, tz, ty, tx = np.indices((*grid[::-1], *block[::-1])).reshape(6, -1)
    assert (y == bx + 10 * by + 100 * bz + 1000 * tx + 10000 * ty + 100000 * tz).all()


def test_long_division(module):
    rng = np.random.default_rng(5)
    a = rng.integers(-(2**62), 2**62, THREADS)
    b = rng.integers(1, 2 ** rng.integers(2, 60, THREADS)) * rng.choice([-1, 1], THREADS)
    y = run(module, "long_division", [a, b], (THREADS, 4), np.int64)
    for i, (p, q) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        quotient = abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1)
        unsigned = (p % 2**64) // (q % 2**64)
        expected = [quotient, p - quotient * q, unsigned, p * q >> 64]
        assert y[i].tolist() == [(v + 2**63) % 2**64 - 2**63 for v in expected]


def functions(x):
    x = x.astype(np.float64)
    integral = np.floor(x) + np.ceil(x) + np.rint(x) + np.trunc(x)
    error = np.vectorize(math.erf)(x)
    columns = [np.exp(x), np.log(x), np.tanh(x), np.sqrt(x), 1 / np.sqrt(x), np.expm1(x)]
    columns += [np.log1p(x), x**1.7, 1 / x, x * x - x, integral, error]
    return np.stack(columns, 1)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 4e-7), (np.float64, 1e-15)])
def test_mathematical_functions(module, dtype, bound):
    x = FLOATS.astype(dtype)
    x[0] = 1e-3
    name = "functions_float" if dtype == np.float32 else "functions_double"
    y = run(module, name, [x], (THREADS, 12), dtype)
    np.testing.assert_allclose(y, functions(x), rtol=bound, atol=bound)


@pytest.mark.parametrize("seed", [None, 1])
def test_fast_functions(module, seed):
    y = run(module, "functions_fast", [FLOATS], (THREADS, 4), np.float32, approximation_seed=seed)
    x = FLOATS.astype(np.float64)
    expected = np.stack([np.exp(x), np.log(x), 1 / x, x**1.5], 1)
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("type", "architecture"),
    [("f16", "7.5"), ("f16", "9.0"), ("bf16", "8.0"), ("bf16", "9.0"), ("bf16", "12.0")],
)
def test_halves(type, architecture):
    module = kernels("features.cu", architecture)
    bits = narrow(np.random.default_rng(6).standard_normal((THREADS, 2)), type)
    name = "halves_half" if type == "f16" else "halves_bfloat16"
    y = run(module, name, [bits], (THREADS, 6, 2), bits.dtype)
    x = widen(bits, type).astype(np.float64)
    square = widen(narrow(x * x, type), type).astype(np.float64)
    expected = [x + x, x * x, x * x + x, np.maximum(x, -x), x - square,
                np.stack([x[:, 1], 3 * x[:, 0]], 1)]  # fmt: skip
    for column, values in enumerate(expected):
        np.testing.assert_array_equal(y[:, column], narrow(values, type))
