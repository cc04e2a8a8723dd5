"""The bench as a test sees it: arrays in global memory, and launches of kernels on them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .arithmetic.floats import Approximator
from .checks.coverage import Coverage
from .checks.memory import Access, Buffer, GlobalMemory, Store
from .checks.races import MAXIMUM_LANES, Races
from .execution.chunk import Chunk, Launch
from .execution.machine import Machine
from .execution.program import Program
from .faults import Fault
from .ptx.parser import Function, Module, Variable

Array = NDArray[Any]
Order = Literal["forward", "reversed", "shuffled"]
Dimensions = int | Sequence[int]

MAXIMUM_THREADS = 1024
DEFAULT_SHARED = 48 * 1024  # what every kernel may have; more after cudaFuncSetAttribute:
SHARED_LIMITS = {
    "7.5": 64 * 1024,
    "8.0": 163 * 1024,
    "8.6": 99 * 1024,
    "8.9": 99 * 1024,
    "9.0": 227 * 1024,
    "10.0": 227 * 1024,
    "11.0": 227 * 1024,
    "12.0": 99 * 1024,
}
MAXIMUM_GRID = (2**31 - 1, 65535, 65535)
CHUNK_THREADS = 1 << 14  # what runs together: enough to keep numpy busy, little enough for caches


class Device:
    """Memory and the way in which launches run.

    order: of the blocks, and of the threads of one atomic instruction.
    concurrent_blocks: how many blocks run together; 1 runs them one after another, None chooses.
    approximation_seed: None computes ex2.approx and its like exactly rounded; a number makes them
        as wrong as hardware may be, see floats.Approximator.
    races: whether to look for them; without, launches take about half the time.
    allow_equal_writes: two threads may write the same value to the same place.
    allow_local_memory: kernels may hold variables in local memory, as printf needs.
    instruction_limit: of the blocks that run together, against endless loops.
    coverage: gathers which branches were taken, and by which kernels.
    gap: bytes between one array and the next, a multiple of 256. Arrays of one size are as far from
        each other as rows of a larger one: by so much, if need be, that 32 bits do not count it.
    """

    def __init__(
        self,
        *,
        order: Order = "forward",
        concurrent_blocks: int | None = None,
        approximation_seed: int | None = None,
        shuffle_seed: int = 0,
        races: bool = True,
        allow_equal_writes: bool = False,
        allow_local_memory: bool = False,
        instruction_limit: int = 2_000_000,
        coverage: Coverage | None = None,
        gap: int = 1 << 20,
    ) -> None:
        if order not in ("forward", "reversed", "shuffled"):
            raise ValueError(f"order {order!r}: expected forward, reversed or shuffled")
        self.order = order
        self.concurrent_blocks = concurrent_blocks
        self.races = races
        self.allow_equal_writes = allow_equal_writes
        self.allow_local_memory = allow_local_memory
        self.instruction_limit = instruction_limit
        self.coverage = coverage
        self.shared_sizes: dict[str, int] = {}  # by kernel: dynamic bytes that it opted in to
        self.memory = GlobalMemory(gap)
        self.printed: list[str] = []
        self._random = np.random.default_rng(shuffle_seed)
        self._approximation_seed = approximation_seed
        self._variables: dict[Module, dict[str, Buffer]] = {}

    def array(self, values: Any, *, offset: int = 0) -> Buffer:
        """An array with these contents; `offset` elements move it off its 256-byte alignment."""
        contents = np.asarray(values)
        buffer = self.memory.allocate(contents.shape, contents.dtype, offset)
        buffer.fill(contents)
        return buffer

    def empty(self, shape: Dimensions, dtype: Any, *, offset: int = 0) -> Buffer:
        """An array that holds nothing: to read an element before it is written is a fault."""
        dimensions = (shape,) if isinstance(shape, int) else tuple(shape)
        return self.memory.allocate(dimensions, dtype, offset)

    def variable(self, module: Module, name: str) -> Buffer:
        """A module's __device__ or __constant__ variable, as bytes."""
        return self._module_variables(module)[name]

    def fill(self, address: int, value: int, size: int) -> None:
        """cudaMemset: sets bytes."""
        if size:
            store, span = self.memory.span(address, size)
            store.bytes[span] = value & 0xFF
            if store.written is not None:
                store.written[span] = 1

    def copy(self, target: int, source: int, size: int) -> None:
        """CudaMemcpy within the device."""
        if size:
            store, span = self.memory.span(target, size)
            other, other_span = self.memory.span(source, size)
            store.bytes[span] = other.bytes[other_span].copy()
            if store.written is not None:
                written = other.written
                store.written[span] = 1 if written is None else written[other_span].copy()

    def launch(
        self,
        module: Module,
        kernel: str | Function,
        grid: Dimensions,
        block: Dimensions,
        arguments: Sequence[Any],
        *,
        shared: int = 0,
    ) -> None:
        """Runs a kernel to its end; raises Fault for the first error it makes.

        kernel: its name, or a part of it that no other kernel has.
        arguments: buffers, numbers (converted to the parameter's size: give numpy scalars for
            floats), or bytes for parameters passed by value.
        shared: bytes of dynamic shared memory.
        """
        function = module.kernel(kernel) if isinstance(kernel, str) else kernel
        program = self._program(module, function)
        whole, part = _three(grid, "grid"), _three(block, "block")
        threads = self._check(program, whole, part, shared)
        blocks = whole[0] * whole[1] * whole[2]
        parameters = _pack(function, arguments)
        self.memory.begin_launch(program.global_granule)
        races = Races(blocks, threads, program.has_fences) if self.races else None
        launch = Launch(
            whole,
            part,
            program.static_shared + (-program.static_shared % 16 if shared else 0) + shared,
            shared,
            program.local_size,
            _parameter_store(program, parameters),
            program.shared_granule,
            self.memory,
            Access(races, self.allow_equal_writes),
            races,
            self.order == "reversed",
            self._random if self.order == "shuffled" else None,
            self.printed,
            self.coverage,
        )
        together = self.concurrent_blocks or max(1, CHUNK_THREADS // threads)
        sequence = self._sequence(blocks)
        for first in range(0, blocks, together):
            chunk = Chunk(launch, np.sort(sequence[first : first + together]))
            Machine(program, chunk, self.instruction_limit).run(parameters)

    def _sequence(self, blocks: int) -> Array:
        if self.order == "shuffled":
            return self._random.permutation(blocks)
        forward = np.arange(blocks)
        return forward[::-1].copy() if self.order == "reversed" else forward

    def _program(self, module: Module, function: Function) -> Program:
        variables = self._module_variables(module)
        addresses = tuple((name, buffer.address) for name, buffer in variables.items())
        return _decoded(module, function.name, addresses, self._approximation_seed)

    def _module_variables(self, module: Module) -> dict[str, Buffer]:
        if module not in self._variables:
            held = {}
            for name, variable in module.variables.items():
                if variable.space in ("global", "const"):
                    value = variable.value.ljust(variable.size, b"\0")
                    held[name] = self.array(np.frombuffer(value, np.uint8))
            self._variables[module] = held
        return self._variables[module]

    def _check(
        self,
        program: Program,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
    ) -> int:
        name = program.kernel.name
        threads = block[0] * block[1] * block[2]
        if not 1 <= threads <= MAXIMUM_THREADS or block[2] > 64:
            raise Fault("launch", f"{name}: a block of {block} threads")
        if any(not 1 <= size <= most for size, most in zip(grid, MAXIMUM_GRID, strict=True)):
            raise Fault("launch", f"{name}: a grid of {grid} blocks")
        total = program.static_shared + shared
        allowed = max(DEFAULT_SHARED, program.static_shared + self.shared_sizes.get(name, 0))
        if shared < 0 or total > allowed:
            raise Fault("launch", f"{name}: {total} bytes of shared memory")
        if grid[0] * grid[1] * grid[2] * threads > MAXIMUM_LANES:
            raise Fault("unsupported", f"{name}: more than {MAXIMUM_LANES} threads")
        if program.local_size and not self.allow_local_memory:
            raise Fault("local memory", f"{name} keeps {program.local_size} bytes a thread there")
        return threads


@functools.lru_cache(maxsize=256)
def _decoded(
    module: Module, kernel: str, addresses: tuple[tuple[str, int], ...], seed: int | None
) -> Program:
    """The same for all devices whose module variables have the same addresses: mostly none."""
    return Program(module, module.functions[kernel], dict(addresses), Approximator(seed))


def _three(size: Dimensions, what: str) -> tuple[int, int, int]:
    sizes = (size,) if isinstance(size, int | np.integer) else tuple(size)
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"{what} {size}: expected one to three sizes")
    x, y, z = (*map(int, sizes), 1, 1)[:3]
    return x, y, z


def _pack(function: Function, arguments: Sequence[Any]) -> dict[str, Array]:
    if len(arguments) != len(function.parameters):
        raise Fault(
            "launch",
            f"{function.name} takes {len(function.parameters)} arguments, not {len(arguments)}",
        )
    return {
        parameter.name: np.frombuffer(_to_bytes(argument, parameter), np.uint8)[None, :]
        for parameter, argument in zip(function.parameters, arguments, strict=True)
    }


def _parameter_store(program: Program, parameters: dict[str, Array]) -> Store:
    store = Store(program.parameter_size, None)
    for name, offset in program.parameter_offsets.items():
        value = parameters[name][0]
        store.bytes[offset : offset + len(value)] = value
    store.written = None
    return store


def _to_bytes(argument: Any, parameter: Variable) -> bytes:
    if isinstance(argument, Buffer):
        argument = argument.address
    if isinstance(argument, int):
        return (argument & (1 << 8 * parameter.size) - 1).to_bytes(parameter.size, "little")
    value: bytes = argument if isinstance(argument, bytes) else np.asarray(argument).tobytes()
    if len(value) != parameter.size:
        raise Fault("launch", f"{len(value)} bytes for {parameter.name} of {parameter.size}")
    return value
