"""A directory's weights are found in one file or many, and every missing part has a name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from quire.errors import CheckpointError
from quire.weights.checkpoint import open_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
ONE = {"a": np.arange(3, dtype=np.float32)}
TWO = {"b": np.ones((2, 2), dtype=np.float16), "c": np.zeros(1, dtype=np.float32)}


def write_shards(directory: Path, places: Any = None, content: bytes | None = None) -> Path:
    """Write two shards and an index; `places` replaces its weight_map, `content` all of it."""
    safetensors.numpy.save_file(ONE, directory / "model-00001-of-00002.safetensors")
    safetensors.numpy.save_file(TWO, directory / "model-00002-of-00002.safetensors")
    right = {"a": "model-00001-of-00002.safetensors"}
    right |= dict.fromkeys("bc", "model-00002-of-00002.safetensors")
    index = directory / "model.safetensors.index.json"
    text = json.dumps({"metadata": {}, "weight_map": right if places is None else places})
    index.write_bytes(text.encode() if content is None else content)
    return index


def test_one_file(tmp_path: Path) -> None:
    safetensors.numpy.save_file(ONE | TWO, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.names) == {"a", "b", "c"}
    assert np.array_equal(checkpoint.tensor("a").data, ONE["a"])
    assert checkpoint.origin.endswith("model.safetensors")


def test_shards_look_like_one_file(tmp_path: Path) -> None:
    write_shards(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    assert set(checkpoint.names) == {"a", "b", "c"}
    for name, array in (ONE | TWO).items():
        assert np.array_equal(checkpoint.tensor(name).data, array)
    assert not checkpoint.has("d")
    with pytest.raises(CheckpointError, match=r"index\.json.*'d'"):
        checkpoint.tensor("d")


def test_links_into_a_cache_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    safetensors.numpy.save_file(ONE, tmp_path / "blobs" / "0123abcd")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "0123abcd")
    assert open_checkpoint(tmp_path).has("a")


@pytest.mark.parametrize("container", ["zip.bin", "legacy.bin"])
def test_old_torch_files(tmp_path: Path, container: str) -> None:
    shutil.copy(FIXTURES / container, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path).tensor("window").data.tolist() == [1.5, 2.0, 2.5, 3.0]


def test_old_torch_shards(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "zip.bin", tmp_path / "pytorch_model-00001-of-00002.bin")
    shutil.copy(FIXTURES / "legacy.bin", tmp_path / "pytorch_model-00002-of-00002.bin")
    places = {
        "f32": "pytorch_model-00001-of-00002.bin",
        "window": "pytorch_model-00002-of-00002.bin",
    }
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.names) == {"f32", "window"}
    assert checkpoint.tensor("f32").shape == (3, 4)


def test_safetensors_come_before_old_torch_files(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "zip.bin", tmp_path / "pytorch_model.bin")
    safetensors.numpy.save_file(ONE, tmp_path / "model.safetensors")
    assert set(open_checkpoint(tmp_path).names) == {"a"}


def test_no_weights_lists_what_is_read_and_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json.*empty"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(CheckpointError, match=r"holds model\.gguf"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be listed"):
        open_checkpoint(tmp_path / "absent")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of its 2 shards .*model-00002-of-00002"):
        open_checkpoint(tmp_path)


def test_a_cut_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.*end at byte"):
        open_checkpoint(tmp_path)


def test_a_weight_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, {"b": "model-00001-of-00002.safetensors"})
    with pytest.raises(CheckpointError, match=r"'b' in .*model-00001-of-00002.*lacks it"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "file",
    ["../secret", "/etc/passwd", "sub/model.safetensors", "..", ".", "", "a\\b", "C:x", "a\0b", 7]
    + ["a\nb", "\ud800"],
)
def test_a_file_name_that_leaves_the_directory_is_refused(tmp_path: Path, file: Any) -> None:
    directory = tmp_path / "checkpoint"
    (directory / "sub").mkdir(parents=True)
    for place in (tmp_path / "secret", directory / "sub" / "model.safetensors"):
        safetensors.numpy.save_file(ONE, place)
    write_shards(directory, {"a": file})
    with pytest.raises(CheckpointError, match="not a file name here"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"\xff"]
    + [b"[" * 100_000, b'{"weight_map": {"a": "x", "a": "y"}}', b'{"weight_map": {"a": null}}'],
)
def test_a_damaged_index_is_refused(tmp_path: Path, content: bytes) -> None:
    write_shards(tmp_path, content=content)
    with pytest.raises(CheckpointError, match="not an index"):
        open_checkpoint(tmp_path)


def test_a_shard_name_too_long_for_the_system_is_missing(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "x" * 5000})
    with pytest.raises(CheckpointError, match="1 of its 1 shards"):
        open_checkpoint(tmp_path)
