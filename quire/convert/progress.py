"""What a run has finished, kept beside its output, so that an interrupted one goes on.

While it runs, everything stands in DIR.partial: shards of the checkpoint, one for each finished
block, and in `progress/` the hidden rows behind the last one.  At the end it becomes DIR.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quire.convert.block_forward import Stream
from quire.convert.safetensors_file import replace_file, write_safetensors
from quire.errors import ConfigError
from quire.weights.safetensors import SafetensorsFile
from quire.weights.tensor import RawTensor

__all__ = ["Progress"]


class Progress:
    """The state of one run.

    fingerprint: of all that decides the output's bytes.  records: what each finished step noted.
    Raises ConfigError if the output exists, or what is there belongs to another run.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise ConfigError(f"{output} exists; give another --output, or delete it first")
        self.output = output
        self.directory = output.with_name(output.name + ".partial")
        self._folder = self.directory / "progress"
        self._file = self._folder / "progress.json"
        self._state: dict[str, Any] = {"fingerprint": fingerprint, "records": []}
        if self._file.is_file():
            self._state = json.loads(self._file.read_text(encoding="utf-8"))
            if self._state["fingerprint"] != fingerprint:
                raise ConfigError(
                    f"{self.directory} is left from a run with other options, texts or weights; "
                    "delete it, or repeat that run's options to finish it"
                )
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def records(self) -> list[dict[str, Any]]:
        """What the finished steps noted, in order."""
        return list(self._state["records"])

    def streams(self) -> dict[str, Stream]:
        """The hidden rows that the last finished step left, by name."""
        file = SafetensorsFile(self._streams(len(self._state["records"])))
        found: dict[str, Stream] = {}
        for name in sorted(file.names):
            found.setdefault(name.partition(".")[0], []).append(file.tensor(name).float32())
        return found

    def finish_step(self, record: Mapping[str, Any], streams: Mapping[str, Stream]) -> None:
        """Note that a step is done; its shard must be written already."""
        done = len(self._state["records"])
        tensors = [
            RawTensor(f"{name}.{i:06d}", "F32", rows.shape, rows)
            for name, stream in streams.items()
            for i, rows in enumerate(stream)
        ]
        write_safetensors(self._streams(done + 1), tensors)
        self._state["records"].append(record)
        replace_file(self._file, json.dumps(self._state))
        self._streams(done).unlink(missing_ok=True)

    def finish(self) -> None:
        """Make the partial directory the output."""
        shutil.rmtree(self._folder)
        if self.output.is_dir():
            self.output.rmdir()
        os.replace(self.directory, self.output)

    def _streams(self, step: int) -> Path:
        return self._folder / f"streams-{step}.safetensors"
