"""What a model caches of a token, layer by layer, and in which format."""

from __future__ import annotations

from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.models.spec import Attention, AttentionPart, LatentAttention, ModelSpec, parts
from quire.ops.kv_cache import KV_FORMATS, CacheLayerShape, KvLayerShape, KvLayout
from quire.ops.latent_cache import LATENT_FORMATS, LatentLayerShape

__all__ = ["cache_shape", "kv_layers", "kv_layout"]


def kv_layout(config: EngineConfig, spec: ModelSpec) -> KvLayout:
    """The KV cache's layout; its format is the model's own unless the user chose one."""
    name = spec.dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
    if name not in KV_FORMATS:
        raise ConfigError(
            f"the model's dtype {name!r} cannot be cached; set kv_cache_dtype to one of "
            f"{', '.join(KV_FORMATS)}"
        )
    if name not in LATENT_FORMATS and any(parts(spec, LatentAttention)):
        raise ConfigError(
            f"kv_cache_dtype {name!r} is not there for latents yet; choose one of "
            f"{', '.join(LATENT_FORMATS)}"
        )
    return KvLayout(kv_layers(spec), config.block_size, name)


def kv_layers(spec: ModelSpec) -> tuple[CacheLayerShape, ...]:
    """What each layer caches for a token; nothing where it has no attention."""
    return tuple(
        next(
            (cache_shape(m) for m in block.mixers if isinstance(m, Attention | LatentAttention)),
            KvLayerShape(0, 0),
        )
        for block in spec.blocks
    )


def cache_shape(part: AttentionPart) -> CacheLayerShape:
    """What an attention part caches of a token."""
    if isinstance(part, LatentAttention):
        return LatentLayerShape(part.rank, part.rope.dims)
    return KvLayerShape(part.kv_heads, part.head_dim)
