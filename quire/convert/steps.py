"""The steps of a quantization run: the embedding, every block, the head.

Three streams of hidden rows pass through the blocks side by side: `calibration`, whose statistics
the algorithms see; `original`, measured text through the model as it was; `quantized`, the same
text through the rounded one.  Only one block's weights are in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.config import EngineConfig
from quire.convert.block_forward import LOGIT_ROWS, BlockForward, Stream
from quire.convert.block_quantize import BlockQuantizer
from quire.convert.divergence import Divergence
from quire.convert.format_tensors import quantization_config, tensors_of
from quire.convert.gguf_file import GGUF_NAME, write_gguf_file
from quire.convert.grid import Grid
from quire.convert.hadamard import HadamardRotation
from quire.convert.observe import Statistics
from quire.convert.output import CheckpointWriter
from quire.convert.progress import Progress
from quire.convert.recipe import Algorithms, Quantization, assign, module_of
from quire.convert.report import peak_memory_bytes
from quire.convert.rounding import round_matrix
from quire.convert.source import Source, block_weights, parts_beside
from quire.convert.stored_model import open_stored_model
from quire.convert.texts import Texts
from quire.errors import ConfigError
from quire.models.spec import Linear, Weight, parts
from quire.quant.matrix import QuantizedMatrix
from quire.weights.tensor import RawTensor

__all__ = ["Measured", "Steps"]

HEAD = "lm_head"
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run did: figures of the whole, and records of each block with its matrices.

    tokens: calibrated on.  bytes: of the output's tensors.  peak_memory: of any of its processes.
    """

    figures: dict[str, float]
    blocks: list[dict[str, Any]]
    tokens: int
    bytes: int
    peak_memory: int


class Steps:
    """One pass over the model; each step leaves a shard and the streams behind it."""

    def __init__(
        self, source: Source, asked: Quantization, texts: Texts, progress: Progress
    ) -> None:
        self.source, self.asked, self.texts, self.progress = source, asked, texts, progress
        self.algorithms = Algorithms.of(asked)
        self.schemes = assign(source.spec, asked)
        half = asked.format in ("awq", "gptq", "gguf") or source.spec.dtype != "bfloat16"
        self.grids = {
            name: Grid(scheme, "float16" if half else "bfloat16")
            for name, scheme in self.schemes.items()
        }
        stored_as = {name: source.format_of(name) for name in source.weights}
        self.blocks = BlockQuantizer(self.algorithms, self.grids, stored_as)
        self.forward = BlockForward(source.spec)
        self.writer = CheckpointWriter(progress.directory, len(source.spec.blocks) + 2)
        self.kinds = {name: scheme.activations for name, scheme in self.schemes.items()}
        self.rotation: HadamardRotation | None = None
        if self.algorithms.rotation:
            if source.beside:
                raise ConfigError(
                    f"{source.beside[0].name} and {len(source.beside) - 1} more tensors stay as "
                    "they are, and would meet rotated rows; leave hadamard out"
                )
            self.rotation = HadamardRotation(source.spec, asked.seed)
        self._streams: dict[str, Stream] | None = None

    def step(self, step: int) -> None:
        """Compute a step's shard and streams: 0 is the embedding, the last one the head."""
        started = time.perf_counter()
        if step == 0:
            record, streams, tensors = self._embed()
        elif step <= len(self.source.spec.blocks):
            record, streams, tensors = self._block(step - 1, self._current())
        else:
            record, streams, tensors = self._head(self._current())
        record["bytes"] = self.writer.write_shard(step, tensors)
        record["tensors"] = [tensor.name for tensor in tensors]
        record["seconds"] = round(time.perf_counter() - started, 3)
        record["peak_memory"] = peak_memory_bytes()
        self.progress.finish_step(record, streams)
        self._streams = streams

    def finish(self) -> Measured:
        """Write what a checkpoint has beside its shards."""
        records = self.progress.records
        config = dict(self.source.config)
        unquantized = [
            self._module(linear)
            for linear in self.source.spec.linears()
            if linear.weight.name not in self.schemes
        ]
        config["quantization_config"] = quantization_config(
            self.asked.format,
            self.schemes,
            unquantized,
            parts_beside(self.source.beside, self.source.spec),
        )
        config |= dict(self.source.spec.folded)
        if self.rotation is not None and self.source.spec.tied:
            config["tie_word_embeddings"] = False
        self.writer.write_rest(config, self.source.directory, records)
        if self.asked.format == "gguf":
            self._join_to_gguf()
        self.progress.finish()
        tokens = sum(map(len, self.texts.calibration)) if self.algorithms.observes else 0
        return Measured(
            figures=records[-1]["figures"],
            blocks=records[1:-1],
            tokens=tokens,
            bytes=sum(record["bytes"] for record in records),
            peak_memory=max(record["peak_memory"] for record in records),
        )

    def _join_to_gguf(self) -> None:
        """Write the finished shards as one file in their place."""
        directory = self.progress.directory
        model = open_stored_model(EngineConfig(str(directory)))
        write_gguf_file(model, directory / GGUF_NAME, self.source.directory.name)
        for path in directory.iterdir():
            if path.is_file() and path.name != GGUF_NAME:
                path.unlink()

    def _is_tied_head(self, linear: Linear) -> bool:
        tied = self.source.spec.tied and self.rotation is None
        return tied and linear is self.source.spec.head

    def _module(self, linear: Linear) -> str:
        """What other engines call a layer; a tied head is a layer of its own to them."""
        is_embedding = linear.weight.name == self.source.spec.embedding.weight.name
        return HEAD if is_embedding else module_of(linear.weight.name)

    def _current(self) -> dict[str, Stream]:
        if self._streams is None:
            self._streams = self.progress.streams()
        return self._streams

    def _embed(self) -> tuple[dict[str, Any], dict[str, Stream], list[RawTensor]]:
        weights = self.source.weights
        table, *others = (weights[each.name] for each in parts(self.source.spec.embedding, Weight))
        measured = self.forward.embed(weights, self.texts.evaluation)
        streams = {"original": measured, "quantized": measured}
        if self.algorithms.observes:
            streams["calibration"] = self.forward.embed(weights, self.texts.calibration)
        if self.rotation is not None:
            rotate = self.rotation.stream.rows
            streams = {name: [rotate(x) for x in rows] for name, rows in streams.items()}
            table = self.source.stored(table.name, rotate(table.float32()))
        return {}, streams, [table, *others]

    def _block(
        self, layer: int, streams: Mapping[str, Stream]
    ) -> tuple[dict[str, Any], dict[str, Stream], list[RawTensor]]:
        block, forward = self.source.spec.blocks[layer], self.forward
        weights = self.source.floats(block_weights(block))
        if self.rotation is not None:
            self.rotation.block(block, weights)
            weights |= {n: self._stored(n, weights[n]).float32() for n in weights if self._kept(n)}
        left: dict[str, Stream] = {}
        statistics: dict[str, Statistics] = {}
        is_gptq = self.algorithms.rounding == "gptq"
        if is_gptq:  # the rows behind are those of the rounded block, below
            statistics = forward.statistics(layer, weights, streams["calibration"])
        elif self.algorithms.observes:
            left["calibration"], statistics = forward.observed(
                layer, weights, streams["calibration"]
            )
        rows = {name: {"tokens": seen.rows} for name, seen in statistics.items()}
        result = self.blocks.quantize(block, weights, statistics)
        del statistics
        left["original"], samples = forward.observed(layer, result.floats, streams["original"])
        rounded = {**result.floats, **{n: m.float32() for n, m in result.matrices.items()}}
        stored = {n: self._tensors_of(n, matrix) for n, matrix in result.matrices.items()}
        matrices = {
            name: {
                "scheme": self.schemes[name].name,
                "error": _product_error(samples[name].sample, rounded[name], result.floats[name]),
                "bytes": sum(tensor.nbytes for tensor in stored[name]),
                **rows.get(name, {}),
            }
            for name in result.matrices
        }
        left["quantized"] = forward.block(layer, rounded, streams["quantized"], self.kinds)
        if is_gptq:
            left["calibration"] = forward.block(layer, rounded, streams["calibration"], self.kinds)
        record = {
            "error": _relative_error(left["quantized"], left["original"]),
            "matrices": matrices,
            "strengths": result.strengths,
        }
        kept = [self._stored(n, result.floats[n]) for n in result.floats if n not in stored]
        return record, left, [*kept, *(each for tensors in stored.values() for each in tensors)]

    def _head(
        self, streams: Mapping[str, Stream]
    ) -> tuple[dict[str, Any], dict[str, Stream], list[RawTensor]]:
        spec, name = self.source.spec, self.source.spec.head.weight.name
        names = [*(weight.name for weight in parts(spec.norm, Weight)), name]
        names += [spec.head.bias.name] if spec.head.bias is not None else []
        weights = self.source.floats(names)
        if self.rotation is not None:
            self.rotation.reading(spec.norm, (spec.head,), weights)
            weights |= {n: self._stored(n, weights[n]).float32() for n in weights if self._kept(n)}
        rounded, tensors = dict(weights), []
        written = [each for each in names if each != name or not self._is_tied_head(spec.head)]
        for each in written:
            if each in self.grids:
                search = self.algorithms.rounding != "rtn"
                matrix = round_matrix(each, weights[each], self.grids[each], search=search)
                rounded[each] = matrix.float32()
                tensors += self._tensors_of(each, matrix)
            else:
                stored = self._stored(each, weights[each])
                # An untied copy of the embedding needs a name of its own.
                own = f"{HEAD}.weight" if each == spec.embedding.weight.name else each
                tensors.append(replace(stored, name=own))
        figures = self._divergence(weights, rounded, streams)
        return {"figures": figures}, {}, tensors + self.source.beside

    def _divergence(
        self,
        weights: Mapping[str, Float32],
        rounded: Mapping[str, Float32],
        streams: Mapping[str, Stream],
    ) -> dict[str, float]:
        found = Divergence()
        sequences = self.texts.evaluation
        for tokens, x, y in zip(sequences, streams["original"], streams["quantized"], strict=True):
            for at in range(0, len(tokens) - 1, LOGIT_ROWS):
                rows = slice(at, min(at + LOGIT_ROWS, len(tokens) - 1))
                found.add(
                    self.forward.logits(weights, x[rows]),
                    self.forward.logits(rounded, y[rows], self.kinds),
                    tokens[at + 1 : at + 1 + rows.stop - rows.start],
                )
        return found.figures()

    def _tensors_of(self, name: str, matrix: QuantizedMatrix) -> list[RawTensor]:
        return tensors_of(self.asked.format, name, matrix, self.schemes[name])

    def _stored(self, name: str, values: Float32) -> RawTensor:
        return self.source.stored(name, values)

    def _kept(self, name: str) -> bool:
        """Whether a tensor stays a float in the output."""
        return name not in self.grids


def _product_error(sample: Float32, rounded: Float32, original: Float32) -> float:
    """What a matrix's products with the rows of a sample lose, as a share of their square."""
    products = sample @ original.T
    lost = sample @ rounded.T - products
    return float(np.vdot(lost, lost)) / (float(np.vdot(products, products)) or 1.0)


def _relative_error(other: Iterable[Float32], original: Iterable[Float32]) -> float:
    """The squared distance of two streams, as a share of the original's square."""
    lost = whole = 0.0
    for y, x in zip(other, original, strict=True):
        lost += float(np.vdot(y - x, y - x))
        whole += float(np.vdot(x, x))
    return lost / (whole or 1.0)
