"""Computes the rows of images with a tower's Program, one image a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from quire.backends.executable import Executable
from quire.errors import ModelError
from quire.graph.ir import Node
from quire.graph.program import Program, StepLimits, compile_program
from quire.models.spec import Attention, Vision, VisionTower
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayerShape, KvLayout
from quire.ops.quantize import RowFormat
from quire.runtime.rope_tables import RopeTables
from quire.vision.image import Image
from quire.vision.image_rules import ImageRules, read_image_rules
from quire.vision.reader import ImageReader

__all__ = ["LoadedVision", "VisionEncoder", "VisionPlan", "compile_tower", "plan_vision"]

Float32: TypeAlias = npt.NDArray[np.float32]
Bind: TypeAlias = Callable[[Program, KvCache, RopeTables], Executable]

MOST_PATCHES = 16384
"""Of one image; it bounds the tower's activations, which all stand in memory at once."""

BLOCK = 16
ROWS_AT_ONCE = 32
"""Rows that the merger computes at a time."""


class VisionEncoder:
    """A tower that is bound to its weights and a machine.

    An image is computed alone and whole, so nothing beside it can change its rows.
    """

    def __init__(self, executable: Executable, ropes: RopeTables, num_blocks: int) -> None:
        self._executable = executable
        self._ropes = ropes
        self._block_table = np.arange(num_blocks, dtype=np.int32)[None]

    def encode(self, image: Image) -> Float32:
        """[num_tokens, E]: what the language model reads in place of embeddings."""
        if image.embeddings is None:
            image.embeddings = self._executable.logits(self._batch(image))
        return image.embeddings

    def _batch(self, image: Image) -> Batch:
        count = len(image.patches)
        zeros = np.zeros(count, np.int32)
        return Batch(
            token_ids=zeros,
            positions=np.arange(count, dtype=np.int32),
            rope_rows=zeros,
            query_start=np.array([0, count], np.int32),
            block_tables=self._block_table,
            logit_rows=np.arange(image.num_tokens, dtype=np.int32),
            frequencies=self._ropes.arrays,
            given_rows=image.patches,
            axis_positions=image.patch_places(),
        )


@dataclass(frozen=True, slots=True)
class LoadedVision:
    """What a model sees with; line: its limits in words."""

    encoder: VisionEncoder
    reader: ImageReader
    line: str


@dataclass(frozen=True, slots=True)
class VisionPlan:
    """A compiled tower, before there is memory for it."""

    vision: Vision
    program: Program
    rules: ImageRules

    def num_bytes(self, temporaries: int) -> int:
        """What an image of the most patches takes: activations, keys and values.

        temporaries: see Room.
        """
        cache = _cache_layout(self.vision.tower).bytes_per_block * _num_blocks(self.program)
        return self.program.buffers.arena_floats * 4 * temporaries + cache

    def bind(self, bound: Bind) -> LoadedVision:
        """The tower with memory and weights."""
        tower, patches = self.vision.tower, self.program.limits.tokens
        ropes = RopeTables(tower.ropes, 0)
        cache = KvCache(_cache_layout(tower), _num_blocks(self.program))
        encoder = VisionEncoder(bound(self.program, cache, ropes), ropes, cache.num_blocks)
        pixels, step = self.rules.max_pixels, self.rules.step
        line = (
            f"images: scaled to {pixels / 1e6:.3g} million pixels, "
            f"{pixels // (step * step)} tokens, at most"
        )
        if find_spec("PIL") is None:
            line += "; but decoding them needs Pillow: pip install 'quire[vision]'"
        reader = ImageReader(self.rules, self.vision.image_token, patches)
        return LoadedVision(encoder, reader, line)


def plan_vision(
    vision: Vision,
    directory: Path,
    has_body: Callable[[Node], bool],
    row_formats: Mapping[str, RowFormat],
) -> VisionPlan:
    """Read how the model wants its images, and compile its tower for the largest one.

    Raises ModelError where preprocessor_config.json does not go with the tower.
    """
    rules = read_image_rules(directory, vision.patch, vision.frames, vision.merge)
    pixels = rules.patch * rules.patch
    most = min(rules.max_pixels // pixels, MOST_PATCHES)
    rules = replace(rules, max_pixels=min(rules.max_pixels, most * pixels))
    if rules.min_pixels > rules.max_pixels:
        raise ModelError(
            f"preprocessor_config.json: min_pixels is {rules.min_pixels}; at most "
            f"{rules.max_pixels} pixels are computed of an image"
        )
    room = min(2 * most, MOST_PATCHES)  # sides are rounded up, and never to less than one step
    program = compile_tower(vision.tower, room, has_body, row_formats)
    return VisionPlan(vision, program, rules)


def compile_tower(
    tower: VisionTower,
    patches: int,
    has_body: Callable[[Node], bool],
    row_formats: Mapping[str, RowFormat] | None = None,
) -> Program:
    """The Program for images of up to so many patches."""
    limits = StepLimits(patches, min(ROWS_AT_ONCE, patches))
    return compile_program(tower, limits, has_body, row_formats)


def _num_blocks(program: Program) -> int:
    return -(-program.limits.tokens // BLOCK)


def _cache_layout(tower: VisionTower) -> KvLayout:
    """Of one layer: each reads its own keys and values, and none those of another."""
    attention = tower.blocks[0].attention
    assert isinstance(attention, Attention)
    return KvLayout((KvLayerShape(attention.kv_heads, attention.head_dim),), BLOCK, "float32")
