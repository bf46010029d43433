"""The native shared library, through ctypes: functions, instruction sets, thread pools."""

from __future__ import annotations

import ctypes
import functools
import logging
from ctypes import POINTER, c_double, c_int32, c_int64, c_uint64, c_void_p
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quire.backends.native import abi
from quire.errors import ConfigError, EngineError

__all__ = [
    "ThreadPool",
    "available_isas",
    "best_isa",
    "check",
    "choose_isa",
    "library_path",
    "load",
]

STATUS_TEXTS = (
    "done",
    "an op that this library does not know",
    "an instruction set that this machine cannot run",
    "not enough memory for scratch space",
    "a token id or position outside the embedding table",
)

logger = logging.getLogger(__name__)

_BUILD_HINT = "build it with `pip install --no-build-isolation -e .` in a checkout"


@functools.cache
def load() -> ctypes.CDLL:
    """The library, loaded once.

    Raises ConfigError when it is missing or of another version.
    """
    spec = find_spec("quire.backends.native._core")
    if spec is None or spec.origin is None:
        raise ConfigError(f"the native library is not built: {_BUILD_HINT}")
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as error:
        raise ConfigError(
            f"the native library cannot be loaded ({error}): {_BUILD_HINT}"
        ) from error
    _check_sizes(library)
    _declare(library)
    return library


def library_path() -> Path:
    """The file that `load` loaded."""
    return Path(load()._name)


def _declare(library: ctypes.CDLL) -> None:
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "quire_abi_sizes": (c_int32, [c_int32 * 11]),
        "quire_can_run": (c_int32, [c_int32]),
        "quire_best_isa": (c_int32, []),
        "quire_row_dtype": (c_int32, [c_int32, c_int32]),
        "quire_default_tunings": (c_int32, [c_int32, POINTER(abi.Tuning)]),
        "quire_pool_create": (c_void_p, [c_int32]),
        "quire_pool_destroy": (None, [c_void_p]),
        "quire_run": (c_int32, [POINTER(abi.Program), POINTER(abi.Step)]),
        "quire_sample": (
            c_int32,
            [c_void_p, c_int32, c_void_p, c_int64, c_int32, c_int32, c_void_p, c_void_p],
        ),
        "quire_uniform": (c_double, [c_uint64, c_int64]),
        "quire_measure_read": (c_int64, [c_void_p, c_int32, c_void_p, c_int64]),
        "quire_measure_fma": (c_int64, [c_void_p, c_int32, c_int64]),
        "quire_measure_int8": (c_int64, [c_void_p, c_int32, c_int64]),
        "quire_measure_bfloat16": (c_int64, [c_void_p, c_int32, c_int64]),
        "quire_pack": (c_int32, [c_void_p, POINTER(abi.Matrix), POINTER(abi.Matrix)]),
        "quire_matrix_bytes": (c_int64, [POINTER(abi.Matrix)]),
        "quire_measure_barriers": (c_int64, [c_void_p, c_int64]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def _check_sizes(library: ctypes.CDLL) -> None:
    structs = (abi.Matrix, abi.Tensor, abi.Op, abi.Program)
    ours = [*map(ctypes.sizeof, structs), abi.SAMPLE_ROW.itemsize, abi.SAMPLE_RESULT.itemsize]
    ours += [
        ctypes.sizeof(each)
        for each in (abi.Step, abi.Tuning, abi.Router, abi.Experts, abi.Recurrence)
    ]
    theirs = (c_int32 * 11)()
    version = library.quire_abi_sizes(theirs)
    if version != abi.ABI_VERSION or list(theirs) != ours:
        raise ConfigError(
            f"the native library was built from other sources (version {version}, struct sizes "
            f"{list(theirs)}; expected {abi.ABI_VERSION}, {ours}): {_BUILD_HINT}"
        )


def best_isa() -> int:
    """The best instruction set of this machine, as an index into abi.ISA_NAMES."""
    return int(load().quire_best_isa())


def available_isas() -> tuple[int, ...]:
    """All instruction sets that this machine can run, the portable one first."""
    return tuple(isa for isa in range(len(abi.ISA_NAMES)) if load().quire_can_run(isa))


def choose_isa(name: str) -> int:
    """An instruction set by its name, or the best one for "auto".

    Raises ConfigError for one that this machine, or this build, cannot run.
    """
    if name == "auto":
        return best_isa()
    wanted, available = abi.ISA_NAMES.index(name), available_isas()
    if wanted not in available:
        names = ", ".join(abi.ISA_NAMES[isa] for isa in available)
        raise ConfigError(
            f"instruction_set {name!r} cannot run on this machine; choose one of auto, {names}"
        )
    if wanted == abi.AMX:
        logger.warning(
            "instruction_set 'amx' has only been tested with a model of its instructions"
        )
    return wanted


def check(status: int) -> None:
    """Raises EngineError unless a quire_status says that all went well."""
    if status:
        known = status < len(STATUS_TEXTS)
        raise EngineError(f"the native backend met {STATUS_TEXTS[status] if known else status}")


class ThreadPool:
    """Threads that run Programs; the caller of a run is one of them.

    Not to be used in a child process after fork.  Close it, or use it in a `with` statement.
    """

    def __init__(self, num_threads: int) -> None:
        self.handle: int | None = None
        if num_threads < 1:
            raise ConfigError(f"a thread pool needs at least 1 thread, not {num_threads}")
        self.num_threads = num_threads
        self.handle = load().quire_pool_create(num_threads)
        if not self.handle:
            raise ConfigError(f"the system does not give {num_threads} threads; ask for fewer")

    def close(self) -> None:
        """End the threads.  A second call does nothing."""
        handle, self.handle = self.handle, None
        if handle:
            load().quire_pool_destroy(handle)

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
