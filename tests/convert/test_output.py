"""What goes with the weights of a quantized checkpoint."""

from __future__ import annotations

from pathlib import Path

from quire.convert import output


def test_how_an_embedder_pools_is_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source / "1_Pooling", source / "onnx", target):
        folder.mkdir(parents=True)
    for name in ("modules.json", "1_Pooling/config.json", "onnx/config.json"):
        (source / name).write_text(name)
    output.CheckpointWriter(target, 1).write_rest({}, source, [])
    assert (target / "modules.json").read_text() == "modules.json"
    assert (target / "1_Pooling" / "config.json").read_text() == "1_Pooling/config.json"
    assert not (target / "onnx").exists()
