"""The pack cache: read as written; packed again, with a warning, when it cannot be relied on."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.ops.column_order import ColumnOrder
from quire.quant.packed import PackedMatrix, pack
from quire.quant.packed_floats import pack_bytes
from quire.weights import pack_cache
from quire.weights.pack_cache import pack_cache_path, read_packed, write_packed
from quire.weights.safetensors import SafetensorsFile
from quire.weights.tensor import RawTensor

WANTED = {"a": (20, 70), "b": (3, 33), "c": (20, 70), "d": (3, 33), "e": (3, 33)}


def matrices(seed: int = 0) -> list[PackedMatrix]:
    """One of each layout, with and without zero points, minimums and an order of columns."""
    random = np.random.default_rng(seed)
    codes = {name: random.integers(0, 16, shape, np.uint8) for name, shape in WANTED.items()}
    scales = random.normal(0, 1, (20, 3)).astype(np.float16)
    zeros = random.integers(0, 16, (3, 1), np.uint8)
    order = ColumnOrder(random.permutation(70).astype(np.int32))
    return [
        pack("a", "INT4", 32, codes["a"], scales),
        pack("b", "INT8", 64, codes["b"], scales[:3, :1], zeros),
        pack("c", "INT4", 32, codes["c"], scales, minimums=scales, exponent=-9, order=order),
        pack("d", "TABLE4", 16, codes["d"], scales[:3], table=tuple(range(-3, 13))),
        PackedMatrix("e", "F8_E4M3", (3, 33), 20, False, pack_bytes(codes["e"], scales[:3, :2])),
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "packed.safetensors"


@pytest.fixture
def written(path: Path) -> Path:
    assert write_packed(path, WANTED, matrices())
    return path


def assert_same(found: dict[str, PackedMatrix] | None, seed: int = 0) -> None:
    assert found is not None and list(found) == list(WANTED)
    for matrix in matrices(seed):
        other = found[matrix.name]
        for fact in ("name", *pack_cache.FACTS):
            assert getattr(other, fact) == getattr(matrix, fact)
        np.testing.assert_array_equal(other.data, matrix.data)


# --- as written


def test_what_was_written_is_read(written: Path) -> None:
    assert_same(read_packed(written, WANTED))
    assert os.listdir(written.parent) == [written.name]


def test_matrices_are_mapped_and_aligned(written: Path) -> None:
    found = read_packed(written, WANTED)
    assert found is not None
    raw = SafetensorsFile(written).tensor("a").data
    assert not found["a"].data.flags.owndata and not found["a"].data.flags.writeable
    assert found["a"].data.ctypes.data % 64 == 0 and raw.nbytes == found["a"].data.nbytes


def test_some_of_the_matrices_can_be_read(written: Path) -> None:
    found = read_packed(written, {"b": WANTED["b"]})
    assert found is not None and list(found) == ["b"]


def test_nothing_there_is_no_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_packed(path, WANTED) is None
    assert not caplog.records


def test_a_new_file_takes_the_place_of_the_old(written: Path) -> None:
    before = read_packed(written, WANTED)
    assert write_packed(written, WANTED, matrices(1))
    assert_same(read_packed(written, WANTED), 1)
    assert_same(before)  # what is mapped stays


def test_writers_at_once_leave_one_whole_file(path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        done = list(
            threads.map(lambda seed: write_packed(path, WANTED, matrices(seed % 2)), range(12))
        )
    assert all(done) and os.listdir(path.parent) == [path.name]
    found = read_packed(path, WANTED)
    assert found is not None
    assert_same(found, int((found["a"].data != matrices(0)[0].data).any()))


def test_floats_are_kept_beside_them(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each stands at a multiple of what its size is a multiple of, up to a cache line."""
    values = np.arange(15, dtype=np.float16).reshape(5, 3)
    odd = RawTensor("odd", "F16", (5, 3), values)
    assert write_packed(path, {"odd": (5, 3), **WANTED}, [odd, *matrices()])
    wanted = {"odd": (5, 3), **WANTED}
    found = read_packed(path, wanted)
    assert found is not None and found["odd"].dtype == "F16"
    np.testing.assert_array_equal(found["odd"].data, values)
    for matrix in found.values():
        order = getattr(matrix, "order", None)
        size = matrix.data.nbytes + (order.columns.nbytes if order else 0)
        assert matrix.data.ctypes.data % min(size & -size, 64) == 0, matrix.name
    assert read_packed(path, {**wanted, "odd": (3, 5)}) is None
    assert "packing the weights again" in caplog.text


# --- damage


def change_header(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Rewrite the header and the facts in it, at the same length."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    facts = json.loads(header["__metadata__"][pack_cache.KEY])
    change(header, facts)
    if "__metadata__" in header:
        header["__metadata__"][pack_cache.KEY] = json.dumps(facts)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


def set_fact(fact: str, value: object, name: str = "a") -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        change_header(path, lambda header, facts: facts[name].__setitem__(fact, value))

    return damage


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def wrong_order(path: Path) -> None:
    """One column twice: kernels would read what is not there."""
    raw = bytearray(path.read_bytes())
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    end = 8 + int.from_bytes(raw[:8], "little") + header["c"]["data_offsets"][1]
    raw[end - 4 : end] = raw[end - 8 : end - 4]
    path.write_bytes(raw)


def no_metadata(path: Path) -> None:
    change_header(path, lambda header, facts: header.pop("__metadata__"))


def no_fact(path: Path) -> None:
    change_header(path, lambda header, facts: facts.pop("a"))


def facts_of_another_kind(path: Path) -> None:
    change_header(path, lambda header, facts: facts.__setitem__("a", [20, 70]))


def deep_facts(path: Path) -> None:
    change_header(path, lambda header, facts: header.pop("__metadata__"))
    raw = path.read_bytes()
    text = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    new = b'{"__metadata__": {"%s": "%s"},' % (pack_cache.KEY.encode(), b"[" * 100_000) + text[1:]
    path.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + len(text) :])


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        cut_header,
        empty,
        noise,
        no_metadata,
        no_fact,
        facts_of_another_kind,
        deep_facts,
        wrong_order,
        set_fact("order", True),
        set_fact("order", False, "c"),
        set_fact("order", [1]),
        set_fact("dtype", "INT5"),
        set_fact("dtype", "INT8"),
        set_fact("dtype", ["INT4"]),
        set_fact("dtype", "F8_E4M3"),
        set_fact("shape", [21, 70]),
        set_fact("shape", ["20", 70]),
        set_fact("shape", [None, 70]),
        set_fact("shape", [20, 71]),
        set_fact("shape", None),
        set_fact("colour", "red"),
        set_fact("group_size", 0),
        set_fact("group_size", 0, "e"),
        set_fact("group_size", 16),
        set_fact("group_size", 48),
        set_fact("group_size", -32),
        set_fact("group_size", 64),
        set_fact("group_size", 32.5),
        set_fact("has_zero_points", True),
        set_fact("has_minimums", True),
        set_fact("exponent", 200),
        set_fact("exponent", "1"),
        set_fact("table", [1]),
        set_fact("table", [300] * 16, "d"),
    ],
)
def test_damage_means_packing_again_with_a_warning(
    written: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    damage(written)
    assert read_packed(written, WANTED) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        str(written) in record.getMessage() and "packing the weights again" in record.getMessage()
    )
    assert write_packed(written, WANTED, matrices())
    assert_same(read_packed(written, WANTED))


@pytest.mark.parametrize("wanted", [{"a": (21, 70)}, {"a": (20, 71)}, {"c": (1, 1)}])
def test_other_matrices_than_wanted(
    written: Path, caplog: pytest.LogCaptureFixture, wanted: dict[str, tuple[int, ...]]
) -> None:
    assert read_packed(written, {**WANTED, **wanted}) is None
    assert "packing the weights again" in caplog.text


def test_a_place_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    assert not write_packed(blocked / "packed.safetensors", WANTED, matrices())
    assert "the packed weights were not kept" in caplog.text
    assert read_packed(blocked / "packed.safetensors", WANTED) is None


def test_a_full_disk_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not write_packed(path, WANTED, matrices())
    assert os.listdir(path.parent) == []


# --- the name


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (directory / name).write_text(name)
    return directory


def test_the_name_is_the_same_for_the_same_checkpoint(checkpoint: Path) -> None:
    path = pack_cache_path(checkpoint, "int4")
    (checkpoint / "README.md").write_text("more words")
    (checkpoint / "gone.json").symlink_to(checkpoint / "nowhere")
    assert pack_cache_path(checkpoint, "int4") == path
    assert path.parent == Path(os.environ["QUIRE_CACHE_DIR"]) / "packed"


def bigger(directory: Path) -> None:
    (directory / "model.safetensors").write_text("more weights")


def later(directory: Path) -> None:
    os.utime(directory / "model.safetensors", ns=(1, 1))


def one_more(directory: Path) -> None:
    (directory / "model-2.safetensors").write_text("x")


def renamed(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "other.safetensors")


@pytest.mark.parametrize("change", [bigger, later, one_more, renamed])
def test_the_name_changes_with_every_file_of_weights(
    checkpoint: Path, change: Callable[[Path], None]
) -> None:
    path = pack_cache_path(checkpoint, "int4")
    change(checkpoint)
    assert pack_cache_path(checkpoint, "int4") != path


def test_the_name_changes_with_scheme_version_and_place(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {pack_cache_path(checkpoint, "int4"), pack_cache_path(checkpoint, "int8")}
    other = checkpoint.rename(tmp_path / "other")
    paths.add(pack_cache_path(other, "int4"))
    monkeypatch.setattr(pack_cache, "VERSION", 77)
    paths.add(pack_cache_path(other, "int4"))
    assert len(paths) == 4
