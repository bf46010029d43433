"""Options that users of other engines bring: what they mean here, or why they are refused."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ALIASES", "HINTS", "REFUSALS", "SYNONYMS", "Refusal", "add_refusals"]

ALIASES: Mapping[str, Sequence[str]] = {
    "memory_utilization": ("--gpu-memory-utilization",),
    "max_model_len": ("--context-length", "--session-len", "--ctx-size", "-c"),
    "max_num_seqs": ("--max-running-requests", "--max-batch-size", "--parallel", "-np"),
    "max_num_batched_tokens": ("--max-num-tokens",),
    "scheduling_policy": ("--schedule-policy",),
    "quantization": ("-q",),
    "speculative": ("--spec-method",),
    "num_speculative_tokens": ("--spec-tokens", "--draft-max"),
    "host": ("--server-name",),
    "threads": ("-t",),
    "served_model_name": ("--alias", "-a"),
    "port": ("--server-port",),
    "n": ("-n",),
}
"""Field → options of vLLM, SGLang, LMDeploy, TensorRT-LLM or llama.cpp with the same meaning."""

SYNONYMS: Mapping[str, Mapping[str, str]] = {
    "dtype": {"half": "float16", "float": "float32"},
    "kv_cache_dtype": {"fp8_e4m3": "fp8"},
    "load_format": {"safetensors": "auto"},
}
"""Field → what other engines call one of its values."""

HINTS: Mapping[str, str] = {
    "quantization": "a checkpoint that is quantized already is served as it is, without this option"
}
"""Field → what those who bring another value want to know."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An option of another engine that is honoured only for the values that change nothing here."""

    names: tuple[str, ...]
    accepted: tuple[str, ...]
    reason: str


PARSING = "tool calls and reasoning are not parsed so far; answers have them as text"
ADAPTERS = "adapters are not supported so far; merge the adapter into the model"

REFUSALS = (
    Refusal(
        ("--tensor-parallel-size", "-tp", "--tp", "--tp-size"),
        ("1",),
        "one model runs in one process so far",
    ),
    Refusal(
        ("--pipeline-parallel-size", "-pp", "--pp-size"),
        ("1",),
        "one model runs in one process so far",
    ),
    Refusal(
        ("--data-parallel-size", "-dp", "--dp-size"),
        ("1",),
        "start several servers behind a proxy instead",
    ),
    Refusal(
        ("--speculative-config", "--spec-model", "--model-draft", "-md"),
        (),
        "there are no draft models; give --speculative ngram or suffix",
    ),
    Refusal(
        ("--kv-offloading-backend",),
        ("native",),
        "blocks that a device's cache gives up go to this host's memory",
    ),
    Refusal(
        ("--n-gpu-layers", "--gpu-layers", "-ngl"),
        ("0",),
        "layers are not divided by hand; --device cuda computes all of them there",
    ),
    Refusal(("--flash-attn", "-fa"), ("on", "auto"), "attention is always computed that way"),
    Refusal(
        ("--cache-type-k", "-ctk", "--cache-type-v", "-ctv"),
        (),
        "keys and values have one format; give --kv-cache-dtype, int8 in place of q8_0",
    ),
    Refusal(("--swap-space",), ("0",), "what a preempted request held is computed again"),
    Refusal(("--tool-call-parser", "--reasoning-parser"), (), PARSING),
    Refusal(("--lora", "--lora-modules"), (), ADAPTERS),
    Refusal(("--tokenizer-mode",), ("auto",), "there is one tokenizer, the fast one"),
)

SWITCHES = {
    "--trust-remote-code": "a model's own code is never run, and no supported model needs it",
    "--enable-lora": ADAPTERS,
    "--enable-auto-tool-choice": PARSING,
}
"""Switches that are refused altogether."""

GRANTED = ("--jinja", "--metrics", "--disable-log-requests", "--disable-log-stats")
"""Switches for what is always so here."""


def add_refusals(parser: argparse.ArgumentParser) -> None:
    """Make the parser accept these options where they change nothing, and say why not elsewhere."""
    for refusal in REFUSALS:
        parser.add_argument(*refusal.names, action=_Refuse, refusal=refusal, help=argparse.SUPPRESS)
    for name, reason in SWITCHES.items():
        refusal = Refusal((name,), (), reason)
        parser.add_argument(name, action=_Refuse, refusal=refusal, nargs=0, help=argparse.SUPPRESS)
    for name in GRANTED:
        parser.add_argument(name, action=_Grant, nargs=0, help=argparse.SUPPRESS)


class _Grant(argparse.Action):
    """Leaves everything as it is."""

    def __call__(self, *_: object) -> None:
        pass


class _Refuse(argparse.Action):
    """Takes the values that change nothing; any other is an error with the reason."""

    def __init__(self, *args: Any, refusal: Refusal, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.refusal = refusal

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values in self.refusal.accepted:
            return
        said = f"{option_string} {values}" if values else str(option_string)
        parser.error(f"{said} is not supported: {self.refusal.reason}")
