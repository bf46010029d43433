"""Builds a text decoder with transformers, and refuses what it cannot be trusted to compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

from quire.backends.executable import LoadedWeights
from quire.backends.torch.arrays import DTYPES
from quire.backends.torch.devices import Device
from quire.backends.transformers.attention import NAME, Layers, Survey
from quire.errors import ModelError
from quire.models.wrapped import WrappedSpec
from quire.ops.kv_cache import KvLayerShape

__all__ = ["LIBRARIES", "WrappedModel", "build", "read_settings"]

LIBRARIES = f"transformers {transformers.__version__}, torch {torch.__version__}"
"""What computes: the same libraries give the same bits."""
PAGED = {"full_attention", "sliding_attention", "chunked_attention"}
"""What layer_types calls layers that a paged cache serves; others carry a state or choose keys."""
BY_LENGTH = ("dynamic", "longrope")
"""Rotations that depend on the longest text of a step."""


@dataclass(frozen=True, slots=True)
class WrappedModel:
    """A model of transformers on a device.

    layers: its attention, in the order of computing.  sinks: weights that these name.
    """

    spec: WrappedSpec
    module: Any
    layers: Layers
    sinks: LoadedWeights
    device: Device

    @property
    def cache_shapes(self) -> tuple[KvLayerShape, ...]:
        """What each layer caches of a token."""
        return tuple(KvLayerShape(op.kv_heads, op.head_dim) for op in self.layers.values())

    @property
    def weight_bytes(self) -> int:
        """All parameters and buffers."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return sum(each.numel() * each.element_size() for each in tensors)

    @property
    def widest(self) -> int:
        """The numbers of a token in the widest product but the head."""
        head = self.module.get_output_embeddings()
        linears = (each for each in self.module.modules() if each is not head)
        return max((getattr(each, "out_features", 0) for each in linears), default=0)


def read_settings(directory: Path, overrides: Mapping[str, Any]) -> Any:
    """The model's config as transformers reads it, with the user's overrides.

    Raises ModelError for a model that it does not know, that has code of its own, or whose
    mathematics does not go with the steps of an engine.
    """
    try:
        settings, unknown = AutoConfig.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            return_unused_kwargs=True,
            **overrides,
        )
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"neither Quire nor {_library()} reads this model: {reason}") from None
    if unknown:
        raise ModelError(f"hf_overrides: {_library()} knows no {', '.join(unknown)} of this model")
    name = (settings.architectures or ["(none)"])[0]
    _expect(not settings.is_encoder_decoder, name, "it has an encoder beside its decoder")
    _expect(
        getattr(settings, "quantization_config", None) is None,
        name,
        "it is quantized; take the original model",
    )
    text = settings.get_text_config()
    others = sorted({*(getattr(text, "layer_types", None) or ())} - PAGED)
    _expect(not others, name, f"it has layers of another kind ({', '.join(others)})")
    scaled = getattr(text, "attn_temperature_tuning", False)
    _expect(not scaled, name, "it scales queries by their place in a step")
    by_length = sorted({kind for kind in _rope_types(text) if kind in BY_LENGTH})
    _expect(not by_length, name, f"its rotation ({', '.join(by_length)}) depends on other texts")
    return settings


def build(
    directory: Path, settings: Any, dtype: str, device: Device, dummy_seed: int | None
) -> WrappedModel:
    """The model on a device; with random weights where there is a seed for them.

    Raises ModelError where it is no text decoder, lacks weights, or attends in its own way.
    """
    name = _decoder(settings)
    options = {"dtype": DTYPES[dtype], "attn_implementation": NAME, "trust_remote_code": False}
    try:
        if dummy_seed is not None:
            torch.manual_seed(dummy_seed)
            module = AutoModelForCausalLM.from_config(settings, **options)
        else:
            module, found = AutoModelForCausalLM.from_pretrained(
                directory,
                config=settings,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
            missing = ", ".join(sorted(found["missing_keys"])[:3])
            _expect(not missing, name, f"its checkpoint lacks {missing}")
    except ModelError:
        raise
    except Exception as error:  # of any kind: another library's, over files that anybody wrote
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{_library()} cannot build {name}: {reason}") from error
    module = module.eval().to(device.torch_device)
    return _surveyed(name, module, dtype, device)


def _decoder(settings: Any) -> str:
    """The name of a config's decoder, whose attention must go through the interface."""
    name = str((settings.architectures or ["(none)"])[0])
    try:
        found = MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)]
    except KeyError:
        raise _refusal(name, "transformers has no text decoder of its kind") from None
    kinds = found if isinstance(found, tuple) else (found,)
    names = [kind.__name__ for kind in kinds]
    _expect(name in names, name, f"as a decoder it is {' or '.join(names)}")
    kind = kinds[names.index(name)]
    own = not getattr(kind, "_supports_attention_backend", False)
    _expect(not own, name, "its attention is its own and cannot be paged")
    return name


def _surveyed(name: str, module: Any, dtype: str, device: Device) -> WrappedModel:
    """Send one token through, and note what the layers attend to and how many logits there are."""
    survey = Survey()
    token = torch.zeros((1, 1), dtype=torch.long, device=device.torch_device)
    try:
        with torch.inference_mode():
            made = module(
                input_ids=token,
                position_ids=token,
                attention_mask=torch.ones_like(token),
                use_cache=False,
                paged=survey,
            )
    except (ModelError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise _refusal(name, str(error)) from error
    _expect(bool(survey.layers), name, "it has no attention")
    text = module.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    if longest is None:
        raise _refusal(name, "its config does not say how long a text may be")
    ends = text.eos_token_id
    spec = WrappedSpec(
        name,
        made.logits.shape[-1],
        longest,
        dtype,
        sum(each.numel() for each in module.parameters()),
        tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
    )
    return WrappedModel(spec, module, survey.layers, survey.sinks, device)


def _rope_types(text: Any) -> Iterator[str]:
    """The kinds of a config's rotations, which may be one for each kind of layer."""
    given = getattr(text, "rope_parameters", None) or {}
    for each in (given, *given.values()):
        if isinstance(each, Mapping):
            yield str(each.get("rope_type", each.get("type", "default")))


def _expect(good: bool, name: str, reason: str) -> None:
    if not good:
        raise _refusal(name, reason)


def _refusal(name: str, reason: str) -> ModelError:
    return ModelError(
        f"architecture {name!r} is not supported through transformers: {reason}; choose a model of "
        "docs/models.md"
    )


def _library() -> str:
    return f"transformers {transformers.__version__}"
