"""Random checkpoints of real shapes, the same for every engine, kept in the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.peers.peer import Declined
from bench.peers.shapes import SHAPES, Precision, Shape
from bench.peers.tokenizer_files import write_tokenizer
from bench.random_weights import write_random_weights

__all__ = ["Checkpoint", "cache", "environment"]

GGUF_TYPES = {"bf16": "BF16", "f16": "F16", "int8": "Q8_0", "int4": "Q4_0"}


def cache() -> Path:
    """Where peers and checkpoints live: QUIRE_PEERS_DIR, else ~/.cache/quire-peers."""
    chosen = os.environ.get("QUIRE_PEERS_DIR")
    return Path(chosen).absolute() if chosen else Path.home() / ".cache" / "quire-peers"


def environment(name: str) -> Path:
    """The Python of the environment of that name; it may not be there."""
    return cache() / name / "env" / "bin" / "python"


@dataclass(frozen=True)
class Checkpoint:
    """The files of one shape."""

    shape: Shape

    def directory(self) -> Path:
        """A Hugging Face directory in bfloat16, written on first use."""
        directory = cache() / "checkpoints" / self.shape.name
        if not directory.is_dir():
            partial = directory.with_name(directory.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            shutil.copy(SHAPES / self.shape.name / "config.json", partial)
            write_tokenizer(partial, self.shape.config)
            write_random_weights(partial / "model.safetensors", self.shape.spec)
            partial.rename(directory)
        return directory

    def gguf(self, precision: Precision | str) -> Path:
        """A GGUF file in BF16, F16, Q8_0 or Q4_0, every matrix alike; written on first use.

        Raises Declined without the environment that has PyPI's gguf package.
        """
        kind = GGUF_TYPES[precision]
        path = self.directory().with_name(f"{self.shape.name}-{kind}.gguf")
        if not path.is_file():
            python, partial = environment("gguf"), path.with_suffix(".partial")
            if not python.is_file():
                raise Declined("GGUF files need `python -m bench.peers install gguf`")
            script = Path(__file__).parent / "workers" / "write_gguf.py"
            command = [python, script, self.directory(), partial, kind]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            partial.rename(path)
        return path
