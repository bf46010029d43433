"""Qwen2-VL: Qwen2 that turns queries and keys by time, row and column, and a tower that sees.

Sources: arXiv:2409.12191, the Qwen2VL classes of transformers.
"""

from __future__ import annotations

from dataclasses import replace

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.decoder import (
    TINY,
    decoder,
    dense_mlp,
    grouped_attention,
    rms_norm,
)
from quire.models.families.rope_config import read_rope
from quire.models.families.windows import layer_windows
from quire.models.places import Place, Rows
from quire.models.registry import family
from quire.models.rope import Rope
from quire.models.spec import (
    MLP,
    Attention,
    Block,
    Linear,
    ModelSpec,
    Norm,
    Vision,
    VisionTower,
    Weight,
)

__all__ = ["qwen2_vl"]

EPS = 1e-6
PLACEHOLDERS = (
    "video_token_id",
    "vision_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)
"""Tokens that a prompt has or has not: nothing is computed by their ids."""


@family(
    "Qwen2VLForConditionalGeneration",
    tiny={
        **TINY,
        "image_token_id": 5,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
        },
    },
)
def qwen2_vl(config: ConfigReader) -> ModelSpec:
    """Qwen2-VL, with images."""
    for key in PLACEHOLDERS:
        config.get(key)
    own = config.section("text_config")
    tied = config.flag("tie_word_embeddings") or bool(own.get("tie_word_embeddings"))
    text = config.renamed({}, **{**own, "tie_word_embeddings": tied})
    dim = parts.head_dim(text)
    rope = _rope(text, dim)
    attention = grouped_attention(
        text, qkv_bias=True, ropes=[rope] * parts.num_layers(text), windows=layer_windows(text)
    )
    norm = rms_norm(text, eps=1e-5)
    spec = decoder(text, attention=attention, mlp=dense_mlp(text), norm=norm)
    image_token = config.integer("image_token_id", 151655)
    spec = replace(spec, vision=_Tower(config, spec.width).vision(image_token))
    if own:
        text.finish()
    return spec


def _rope(text: ConfigReader, dim: int) -> Rope:
    """The pairs of a head that turn by time, by row and by column."""
    values = {**text.section("rope_scaling"), **text.section("rope_parameters")}
    sections = values.get("mrope_section")
    if (
        not isinstance(sections, list)
        or not all(isinstance(count, int) and count >= 0 for count in sections)
        or (len(sections), sum(sections)) != (3, dim // 2)
    ):
        raise ModelError(
            f"{text.architecture}: mrope_section is {sections!r}; expected three numbers that add "
            f"up to {dim // 2}, half of a head"
        )
    rope = read_rope(text, dim, theta=1e6, others=("mrope_section",))
    return replace(rope, sections=tuple(sections))


class _Tower:
    """Makes the parts of the vision tower from values read once."""

    def __init__(self, config: ConfigReader, text_width: int) -> None:
        vision = ConfigReader(config.section("vision_config"), config.architecture)
        vision.get("spatial_patch_size")  # as patch_size, and nobody reads it
        self._layers = vision.integer("depth", 32, low=1)
        self._width = vision.positive("embed_dim", 1280)
        self._inner = int(self._width * vision.number("mlp_ratio", 4, low=0.01, high=1000))
        self._heads = vision.positive("num_heads", 16)
        self._activation = parts.activation(vision, default="quick_gelu")
        channels = vision.positive("in_channels", vision.positive("in_chans", 3))
        side, time = vision.positive("patch_size", 14), vision.positive("temporal_patch_size", 2)
        self._patch = (channels, time, side, side)
        self._side = vision.positive("spatial_merge_size", 2)
        self._merge = self._side**2
        ropes = ConfigReader(vision.section("rope_parameters"), config.architecture)
        self._theta = ropes.number("rope_theta", 10000.0, low=2.0, high=1e12)
        self._out = text_width
        made = vision.positive("hidden_size", 3584)
        vision.finish()
        if made != text_width:
            raise ModelError(
                f"{config.architecture}: vision_config has hidden_size {made}, the language model "
                f"{text_width}; image rows must be as wide as embeddings"
            )
        if self._width % self._heads or self._width // self._heads % 4:
            raise ModelError(
                f"{config.architecture}: vision_config has embed_dim {self._width} and num_heads "
                f"{self._heads}; a head must have a multiple of 4 numbers"
            )

    def vision(self, image_token: int) -> Vision:
        """All of it."""
        _, frames, patch, _ = self._patch
        return Vision(self._tower(), image_token, patch, frames, self._side)

    def _tower(self) -> VisionTower:
        whole = self._width * self._merge
        return VisionTower(
            patch=self._patch_embedding(),
            blocks=tuple(self._block(f"visual.blocks.{i}.") for i in range(self._layers)),
            merger_norm=self._norm("visual.merger.ln_q"),
            merge=self._merge,
            merger=MLP(
                up=parts.linear("visual.merger.mlp.0", whole, whole, None, bias=True),
                down=parts.linear("visual.merger.mlp.2", self._out, whole, None, bias=True),
                activation="gelu",
            ),
        )

    def _patch_embedding(self) -> Linear:
        """A convolution whose steps are as long as its kernel is a product with each patch."""
        channels, time, side, _ = self._patch
        place = Place("visual.patch_embed.proj.weight", (self._width, *self._patch), flat=True)
        shape = (self._width, channels * time * side * side)
        return Linear(Weight("visual.patch_embed.weight", shape, stored=(place,)))

    def _norm(self, name: str) -> Norm:
        return parts.layer_norm(name, self._width, EPS)

    def _block(self, prefix: str) -> Block:
        width, inner = self._width, self._inner
        return Block(
            attention_norm=self._norm(prefix + "norm1"),
            attention=self._attention(prefix + "attn."),
            mlp_norm=self._norm(prefix + "norm2"),
            mlp=MLP(
                up=parts.linear(prefix + "mlp.fc1", inner, width, None, bias=True),
                down=parts.linear(prefix + "mlp.fc2", width, inner, None, bias=True),
                activation=self._activation,
            ),
        )

    def _attention(self, prefix: str) -> Attention:
        """Half of a head's pairs turn by row, half by column."""
        width, dim = self._width, self._width // self._heads
        query, key, value = (self._third(prefix, i) for i in range(3))
        return Attention(
            query=query,
            key=key,
            value=value,
            output=parts.linear(prefix + "proj", width, width, None, bias=True),
            heads=self._heads,
            kv_heads=self._heads,
            head_dim=dim,
            scale=dim**-0.5,
            rope=Rope(dim, self._theta, sections=(0, dim // 4, dim // 4), restarts=True),
            bidirectional=True,
        )

    def _third(self, prefix: str, index: int) -> Linear:
        """Checkpoints have queries, keys and values in one tensor."""
        width, name = self._width, prefix + "qkv"
        rows = Rows(index * width, width)

        def weight(ending: str, *columns: int) -> Weight:
            place = Place(f"{name}.{ending}", (3 * width, *columns), rows=rows)
            return Weight(f"{prefix}{'qkv'[index]}.{ending}", (width, *columns), stored=(place,))

        return Linear(weight("weight", width), weight("bias"))
