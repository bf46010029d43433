"""Weights that come through a few buffers are those of the files; the host holds no others."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch import weight_stream
from quire.backends.torch.devices import find_device
from quire.backends.torch.matrix import CodedMatrix, matrix_of
from quire.backends.torch.weight_stream import stream_arrays
from quire.backends.torch.weights import Weights
from quire.weights.mapped_file import map_file
from quire.weights.tensor import RawTensor
from tests.engine import packed_layouts as layouts
from tests.torch.accelerators import Accelerator, make_lazy

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

DEVICE = Accelerator(True)


@pytest.fixture(params=["at once", "late"], autouse=True)
def copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "late":
        make_lazy(monkeypatch)


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of the buffers that were made: small ones."""
    made: list[int] = []

    def host_buffer(num_bytes: int, device: object) -> torch.Tensor:
        made.append(num_bytes)
        return torch.full((num_bytes,), 0xEE, dtype=torch.uint8)

    monkeypatch.setattr(weight_stream, "BUFFER_BYTES", 1000)
    monkeypatch.setattr(weight_stream, "NUM_BUFFERS", 3)
    monkeypatch.setattr(weight_stream, "host_buffer", host_buffer)
    yield made


def random_arrays(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = [(3, 7), (40, 99), (1,), (0, 5), (1000,), (250, 4), (6001,)]
    kinds = [np.float32, np.uint16, np.uint8, np.float16]
    found = [random.integers(0, 255, s).astype(k) for s in shapes for k in kinds]
    return [*found, np.asfortranarray(found[4])]


def test_every_byte_in_order(buffers: list[int]) -> None:
    arrays = random_arrays(0)
    streamed = list(stream_arrays(arrays, DEVICE))
    for array, data in zip(arrays, streamed, strict=True):
        assert bytes(data.numpy()) == array.tobytes()
    assert buffers == [1000] * 3, "the host has these buffers and nothing else"


def test_a_small_model_has_no_more_buffers_than_parts(buffers: list[int]) -> None:
    assert len(list(stream_arrays([np.zeros(1001, np.uint8)], DEVICE))) == 1
    assert buffers == [1000] * 2
    assert not list(stream_arrays([], DEVICE))


def test_on_a_cpu_memory_is_shared(buffers: list[int]) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    (data,) = stream_arrays([array], find_device("cpu"))
    array[0, 0] = 5
    assert data.view(torch.float32)[0] == 5 and not buffers


def test_what_cannot_be_read_is_said(buffers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> torch.Tensor:
        raise OSError("the disk is gone")

    monkeypatch.setattr(weight_stream, "_fill", fill)
    with pytest.raises(OSError, match="the disk is gone"):
        list(stream_arrays(random_arrays(1), DEVICE))


def test_the_host_holds_no_copy(buffers: list[int], tmp_path: Path) -> None:
    """Neither of floats nor of codes; both cross as they stand in their files."""
    path, rows = tmp_path / "weights", 1500
    path.write_bytes(np.random.default_rng(0).bytes(rows * 512 * 2))
    data = map_file(path).view(np.uint16).reshape(rows, 512)
    packed = [layouts_small(each) for each in layouts.KINDS]
    loaded: dict[str, Any] = {each.name: each for each in packed}
    loaded["floats"] = RawTensor("floats", "BF16", data.shape, data)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    Weights(loaded, set(loaded), DEVICE)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < data.nbytes / 4, "numpy made copies"
    assert buffers == [1000] * 3


def layouts_small(kind: tuple[str, int, int]) -> Any:
    weights = np.random.default_rng(1).standard_normal((320, 1024)).astype(np.float32)
    return layouts.pack_matrix(layouts.rounded(" ".join(map(str, kind)), weights, *kind))


@pytest.mark.parametrize("kind", layouts.KINDS, ids=str)
def test_codes_are_unpacked_on_the_device(kind: tuple[str, int, int], buffers: list[int]) -> None:
    """As PackedMatrix does it on the host, also where rows and groups are not whole."""
    group = kind[2]
    for cols in (3 * min(group, 128), group // 2 + 8 if group > 32 else group):
        weights = np.random.default_rng(2).standard_normal((37, cols)).astype(np.float32)
        packed = layouts.pack_matrix(layouts.rounded("w", weights, *kind))
        assert packed is not None
        (data,) = stream_arrays([packed.data], DEVICE)
        matrix = matrix_of(packed, data, torch.float32)
        assert isinstance(matrix, CodedMatrix)
        np.testing.assert_array_equal(matrix.widened(slice(None)).numpy(), packed.float32())
        if packed.dtype != "F8_E4M3":
            found = packed.unpack()
            np.testing.assert_array_equal(matrix.scales.numpy(), found.scales)
            for mine, its in ((matrix.zeros, found.zeros), (matrix.minimums, found.minimums)):
                assert mine is None or np.array_equal(mine.numpy(), its)
