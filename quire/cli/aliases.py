"""Options that users of other engines bring: what they mean here, or why they are refused."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ALIASES", "REFUSALS", "Refusal", "add_refusals"]

ALIASES: Mapping[str, Sequence[str]] = {
    "memory_utilization": ("--gpu-memory-utilization",),
    "max_model_len": ("--context-length", "--session-len", "--ctx-size"),
    "max_num_seqs": ("--max-running-requests", "--max-batch-size"),
    "max_num_batched_tokens": ("--max-num-tokens",),
    "scheduling_policy": ("--schedule-policy",),
    "quantization": ("-q",),
    "speculative": ("--spec-method",),
    "num_speculative_tokens": ("--spec-tokens", "--draft-max"),
    "host": ("--server-name",),
    "port": ("--server-port",),
    "n": ("-n",),
}
"""Field → options of vLLM, SGLang, LMDeploy, TensorRT-LLM or llama.cpp with the same meaning."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An option of another engine that is honoured only for the values that change nothing here."""

    names: tuple[str, ...]
    accepted: tuple[str, ...]
    reason: str


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
    Refusal(("--tokenizer-mode",), ("auto",), "there is one tokenizer, the fast one"),
)

SWITCHES = {
    "--trust-remote-code": "a model's own code is never run, and no supported model needs it",
    "--enable-lora": "adapters are not supported so far; merge the adapter into the model",
}
"""Switches that are refused altogether."""


def add_refusals(parser: argparse.ArgumentParser) -> None:
    """Make the parser accept these options where they change nothing, and say why not elsewhere."""
    for refusal in REFUSALS:
        parser.add_argument(*refusal.names, action=_Refuse, refusal=refusal, help=argparse.SUPPRESS)
    for name, reason in SWITCHES.items():
        refusal = Refusal((name,), (), reason)
        parser.add_argument(name, action=_Refuse, refusal=refusal, nargs=0, help=argparse.SUPPRESS)


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
