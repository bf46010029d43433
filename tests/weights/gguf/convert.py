"""Makes the files in `converted` again, with the converter of llama.cpp and without a vocabulary.

python -m tests.weights.gguf.convert SOURCE_OF_LLAMA_CPP [NAME ...]
"""

from __future__ import annotations

import importlib
import json
import lzma
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.models.places import Place
from tests.weights.gguf.cases import CASES, Case, config_of, spec_of, weights_of

CONVERTED = Path(__file__).parent / "converted"


def main() -> None:
    source, names = Path(sys.argv[1]), sys.argv[2:]
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    for case in CASES:
        if not names or case.name in names:
            with tempfile.TemporaryDirectory() as directory:
                write_checkpoint(case, Path(directory))
                path = Path(directory) / "model.gguf"
                convert(Path(directory), path)
                packed = lzma.compress(path.read_bytes(), preset=9)
            (CONVERTED / f"{case.name}.gguf.xz").write_bytes(packed)
            print(f"{case.name}: {len(packed)} bytes")


def write_checkpoint(case: Case, directory: Path) -> None:
    """A directory as the family's models are published."""
    from safetensors.numpy import save_file

    spec = spec_of(case)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for name, values in weights_of(spec).items():
        place = spec.weights()[name].places[-1]
        if place.stack:
            tensors |= {each: row.copy() for each, row in zip(place.tensors, values, strict=True)}
            continue
        tensor = tensors.setdefault(place.name, np.zeros(place.shape, np.float32))
        put(tensor, place, values)
    save_file(tensors, directory / "model.safetensors")
    config = {"model_type": "any", **config_of(case)}
    config["architectures"] = [case.published or case.family]
    (directory / "config.json").write_text(json.dumps(config))
    vocabulary = {str(i): i for i in range(spec.vocab_size)}
    tokenizer = {"model": {"vocab": vocabulary}, "added_tokens": []}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))


def put(tensor: npt.NDArray[np.float32], place: Place, values: npt.NDArray[np.float32]) -> None:
    """Write a weight to its place, the reverse of quire.weights.part_of_tensor."""
    part = tensor if place.expert is None else tensor[place.expert]
    part = part.T if place.transposed else part
    if place.rows is not None and place.rows.every:
        part = part.reshape(-1, place.rows.every, *part.shape[1:])
        part = part[:, place.rows.start : place.rows.start + place.rows.count]
    elif place.rows is not None:
        part = part[place.rows.start : place.rows.start + place.rows.count]
    assert np.shares_memory(part, tensor)
    part[...] = values.reshape(part.shape)


def convert(directory: Path, path: Path) -> None:
    """Run the converter of the model's architecture."""
    import torch

    base: Any = importlib.import_module("conversion.base")
    gguf: Any = importlib.import_module("gguf")
    hparams = base.ModelBase.load_hparams(directory, False)
    architecture = base.get_model_architecture(hparams, base.ModelType.TEXT)
    model_class = importlib.import_module("conversion").get_model_class(architecture)
    for each in model_class.__mro__:
        for name in list(vars(each)):
            if name.startswith(("set_vocab", "_set_vocab")):
                setattr(each, name, lambda self, *args, **options: None)
    model_class.no_mtp = True
    if architecture.startswith("BaiChuan"):  # its own one calls itself for ever
        write_apart(model_class)
    if architecture.startswith("StableLm"):  # it returns what it should yield
        write_returned(model_class)
    with torch.inference_mode():
        model_class(directory, gguf.LlamaFileType.ALL_F32, path, eager=True).write()


def write_apart(model_class: Any) -> None:
    """Let the converter of Baichuan pass on the tensors that it leaves as they are."""
    own = model_class.modify_tensors

    def modify(self: Any, tensor: Any, name: str, layer: int | None) -> Any:
        if name.endswith("W_pack.weight"):
            return own(self, tensor, name, layer)
        return [(self.map_tensor_name(name), tensor)]

    model_class.modify_tensors = modify


def write_returned(model_class: Any) -> None:
    """Let a converter's generator yield the tensors that it returns."""
    own = model_class.modify_tensors

    def modify(self: Any, tensor: Any, name: str, layer: int | None) -> Any:
        returned = yield from own(self, tensor, name, layer)
        yield from returned or ()

    model_class.modify_tensors = modify


if __name__ == "__main__":
    main()
