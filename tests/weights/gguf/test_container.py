"""A GGUF file is read exactly, or refused: never misread, whatever its bytes are."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import CheckpointError, ModelError, QuireError
from quire.weights.gguf.checkpoint import GgufCheckpoint
from quire.weights.gguf.config import gguf_config
from quire.weights.gguf.container import GgufFile, Strings
from quire.weights.gguf.files import find_gguf
from quire.weights.gguf.model import GgufModel, open_gguf
from quire.weights.gguf.write import write_gguf
from quire.weights.hub import resolve_model

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "a.bool": True,
    "a.small": 7,
    "a.negative": -7,
    "a.large": 2**40,
    "a.float": 0.5,
    "a.text": "名前 😀",
    "a.texts": ["", "x", "é"],
    "a.numbers": np.arange(-2, 3, dtype=np.int32),
    "a.floats": np.array([0.25, -1], np.float32),
    "a.none": [],
}
TENSORS: dict[str, np.ndarray] = {
    "token_embd.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5, dtype=np.float32),
    "c": np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4),
}


def write(
    path: Path,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    tensors = TENSORS if tensors is None else tensors
    shapes = {name: array.shape for name, array in tensors.items()}
    metadata = METADATA if metadata is None else metadata
    write_gguf(path, metadata, shapes, lambda name: ("F32", tensors[name].view(np.uint8)))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "model.gguf")


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, Strings) else value


def refused(path: Path, content: bytes, match: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        GgufFile(path)


def test_what_is_written_is_read(path: Path) -> None:
    file = GgufFile(path)
    assert file.metadata.keys() == METADATA.keys()
    for key, value in METADATA.items():
        np.testing.assert_array_equal(plain(file.metadata[key]), value)
    for name, array in TENSORS.items():
        tensor = file.tensors[name]
        assert (tensor.dtype, tensor.shape) == ("F32", array.shape)
        np.testing.assert_array_equal(file.raw(tensor).view("<f4").reshape(array.shape), array)


@pytest.mark.oracle
def test_gguf_py_reads_the_same(path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(path)
    for key, value in METADATA.items():
        if len(np.atleast_1d(value)):
            np.testing.assert_array_equal(reader.fields[key].contents(), value)
    assert [each.name for each in reader.tensors] == list(TENSORS)
    for each in reader.tensors:
        np.testing.assert_array_equal(each.data, TENSORS[each.name])


@pytest.mark.oracle
@pytest.mark.parametrize("alignment", [None, 64, 4096])
def test_what_gguf_py_writes_is_read(tmp_path: Path, alignment: int | None) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_token_list(["a", "", "日本"])
    writer.add_uint8("u8", 200)
    writer.add_float64("f64", 0.1)
    for name, array in TENSORS.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "m.gguf")
    assert list(file.metadata["tokenizer.ggml.tokens"]) == ["a", "", "日本"]
    assert (file.metadata["u8"], file.metadata["f64"]) == (200, 0.1)
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(
            file.raw(file.tensors[name]).view("<f4").reshape(array.shape), array
        )


def test_a_truncated_file_is_refused(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    last = max(tensor.end for tensor in GgufFile(path).tensors.values())
    for size in (*range(1, last, 7), last - 1):
        refused(tmp_path / "cut.gguf", whole[:size], "download it again|not a GGUF")


def number(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda raw: b"GGML" + raw[4:], "not a GGUF file"),
        (lambda raw: raw[:4] + number(1, 4) + raw[8:], "version 1 is not read"),
        (lambda raw: raw[:4] + number(4, 4) + raw[8:], "version 4 is not read"),
        (lambda raw: raw[:4] + struct.pack(">I", 3) + raw[8:], "big-endian"),
        (lambda raw: raw[:8] + number(2**63) + raw[16:], "ends at byte"),
        (lambda raw: raw[:16] + number(2**63) + raw[24:], "ends at byte|unknown"),
        (lambda raw: raw[:24] + number(2**63) + raw[32:], "ends at byte"),
        (lambda raw: raw.replace(b"a.small", b"a.large", 1), "two metadata values"),
        (lambda raw: raw.replace(b"a.small", b"a.sma\xffl", 1), "utf-8"),
    ],
)
def test_damage_is_named(path: Path, change: Callable[[bytes], bytes], match: str) -> None:
    refused(path, change(path.read_bytes()), match)


def with_entry(name: str, axes: list[int], kind: int, offset: int, data: int = 64) -> bytes:
    """A file with one tensor, described as asked, and so many bytes of data."""
    entry = number(len(name)) + name.encode() + number(len(axes), 4)
    entry += b"".join(map(number, axes)) + number(kind, 4) + number(offset)
    head = b"GGUF" + number(3, 4) + number(1) + number(0) + entry
    return head + bytes(-len(head) % 32 + data)


@pytest.mark.parametrize(
    ("axes", "kind", "offset", "match"),
    [
        ([4], 0, 8, "not aligned"),
        ([4], 0, 2**63, "ends at byte"),
        ([2**62, 2**62], 0, 0, "ends at byte"),
        ([0], 0, 0, "do not fill"),
        ([17], 2, 0, "do not fill"),
        ([], 0, 0, "0 axes"),
        ([1] * 5, 0, 0, "5 axes"),
        ([4], 16, 0, "IQ2_XXS, which is not read"),
        ([4], 77, 0, "number 77"),
    ],
)
def test_wrong_tensors_are_named(
    tmp_path: Path, axes: list[int], kind: int, offset: int, match: str
) -> None:
    (tmp_path / "m.gguf").write_bytes(with_entry("good", [16], 0, 0))
    GgufFile(tmp_path / "m.gguf")
    refused(tmp_path / "m.gguf", with_entry("good", axes, kind, offset), match)


def test_tensors_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", {}, {"aa": np.zeros(8), "bb": np.zeros(8)})
    raw = path.read_bytes()
    refused(path, raw.replace(b"bb", b"aa"), "two tensors have the name")
    at = raw.index(b"bb") + 2 + 4 + 8 + 4
    refused(path, raw[:at] + number(0) + raw[at + 8 :], "overlap")


@pytest.mark.parametrize("value", [0, 3, 2**30, "32", 8.0])
def test_alignment_is_checked(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"general\.alignment"):
        GgufFile(write(tmp_path / "m.gguf", {"general.alignment": value}))


def test_an_array_of_arrays_is_refused(tmp_path: Path) -> None:
    value = number(1) + b"k" + number(9, 4) + number(9, 4) + number(2**60)
    refused(
        tmp_path / "m.gguf", b"GGUF" + number(3, 4) + number(0) + number(1) + value, "of arrays"
    )


def test_a_string_longer_than_any_memory(tmp_path: Path) -> None:
    """In an array, where the next length would be looked for behind it."""
    array = number(9, 4) + number(8, 4) + number(2) + number(2**64 - 1)
    raw = b"GGUF" + number(3, 4) + number(0) + number(1) + number(1) + b"k" + array + bytes(32)
    refused(tmp_path / "m.gguf", raw, "inside its header")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bytes_never_crash(path: Path, data: st.DataObject) -> None:
    """What can still be opened can be read to its end; all else is an error of ours."""
    raw = bytearray(path.read_bytes())
    header = raw.index(b"token_embd") + 150  # the entries of the tensors are among them
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    damaged = path.with_name("damaged.gguf")
    damaged.write_bytes(raw)
    try:
        model = GgufModel(damaged)
        for value in model.metadata.values():
            plain(value)
        for name in model.tensors:
            model.raw(name).sum()
        gguf_config(model)
        checkpoint = GgufCheckpoint(model)
        for name in checkpoint.names:
            (checkpoint.matrix if checkpoint.is_quantized(name) else checkpoint.tensor)(name)
    except QuireError:
        pass


def split(directory: Path) -> list[Path]:
    """The sample in three parts; the first has the metadata, as the usual tool leaves it."""
    parts = []
    for number_, (name, array) in enumerate(TENSORS.items()):
        facts = {"split.no": number_, "split.count": 3, "split.tensors.count": 3}
        metadata = {**METADATA, **facts} if number_ == 0 else facts
        path = directory / f"m-{number_ + 1:05}-of-00003.gguf"
        parts.append(write(path, metadata, {name: array}))
    return parts


def test_parts_are_one_model(tmp_path: Path) -> None:
    model = GgufModel(split(tmp_path)[0])
    assert model.metadata["a.small"] == 7
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(model.raw(name).view("<f4").reshape(array.shape), array)


def test_faults_of_parts_are_named(tmp_path: Path) -> None:
    first, second, third = split(tmp_path)
    with pytest.raises(CheckpointError, match=r"part 2 of 3; give m-00001-of-00003\.gguf"):
        GgufModel(second)
    content = third.read_bytes()
    third.write_bytes(second.read_bytes())
    with pytest.raises(CheckpointError, match="by its name part 2 of 3"):
        GgufModel(first)
    third.unlink()
    with pytest.raises(CheckpointError, match="1 of its 3 parts are missing: m-00003"):
        GgufModel(first)
    third.write_bytes(content.replace(number(1) + b"c", number(1) + b"b"))
    with pytest.raises(CheckpointError, match="another part also has 'b'"):
        GgufModel(first)


def test_a_path_or_a_directory_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    path = write(tmp_path / "one" / "m.gguf")
    assert resolve_model(str(path)) == path
    assert resolve_model(str(path.parent)) == path
    write(path.parent / "n.gguf")
    assert find_gguf(path.parent) is None
    (tmp_path / "split").mkdir()
    first = split(tmp_path / "split")[0]
    assert resolve_model(str(first.parent)) == first
    (path.parent / "n.gguf").unlink()
    (path.parent / "config.json").write_text("{}")
    assert resolve_model(str(path.parent)) == path.parent
    with pytest.raises(ModelError, match=r"absent\.gguf: no such file"):
        resolve_model(str(tmp_path / "absent.gguf"))


def test_a_changed_file_is_opened_again(path: Path) -> None:
    first = open_gguf(path)
    assert open_gguf(path) is first
    write(path, {**METADATA, "a.small": 8})
    assert open_gguf(path).metadata["a.small"] == 8
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_gguf(path.with_name("absent.gguf"))
