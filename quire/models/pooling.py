"""What becomes of a model's rows where a request wants a vector or a score, not text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from quire.errors import ConfigError, ModelError
from quire.models.config_reader import read_json
from quire.models.spec import ModelSpec

__all__ = ["Pooling", "pooling_of"]

PoolingKind = Literal["mean", "first", "last"]
Task = Literal["auto", "generate", "embed", "score"]

MODES: Mapping[str, PoolingKind] = {
    "mean_tokens": "mean",
    "cls_token": "first",
    "lasttoken": "last",
}
"""How sentence-transformers calls them: pooling_mode_..."""
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class Pooling:
    """Which rows of a text count, and what is made of them.

    normalize: the vector is divided by its length.  truncatable: its first numbers are an embedding
    too (Matryoshka).  answers: of a language model that scores: the tokens for no and yes.
    """

    kind: PoolingKind
    task: Literal["embed", "score"] = "embed"
    normalize: bool = True
    truncatable: bool = False
    answers: tuple[str, str] | None = None


def pooling_of(
    task: Task, spec: ModelSpec, directory: Path, values: Mapping[str, Any]
) -> tuple[ModelSpec, Pooling | None]:
    """The spec for a task, and how its rows are pooled; None for a model that generates.

    values: config.json.  An encoder embeds; so does a model with sentence-transformers' files,
    which say how, and one without a head; a classifier scores; any other model generates unless
    told otherwise.
    Raises ConfigError for a task that the model cannot do.
    """
    if spec.output == "scores":
        _refuse(task, ("score",), spec)
        return spec, Pooling("first", "score", normalize=False)
    files = _read_files(directory) if directory.is_dir() else None
    if spec.bidirectional:
        _refuse(task, ("embed",), spec)
        return spec, files or Pooling("first")
    headless = spec.output == "hidden"
    if headless:
        _refuse(task, ("embed",), spec)
    if task == "score":
        return spec, Pooling("last", "score", normalize=False, answers=("no", "yes"))
    if task == "generate" or (task == "auto" and files is None and not headless):
        return spec, None
    matryoshka = values.get("is_matryoshka") or values.get("matryoshka_dimensions")
    known = spec.architecture == "Qwen3ForCausalLM"  # Qwen3-Embedding; its config does not say so
    pooling = replace(files or Pooling("last"), truncatable=bool(matryoshka or known))
    return replace(spec, output="hidden"), pooling


def _refuse(task: Task, possible: tuple[Task, ...], spec: ModelSpec) -> None:
    if task not in ("auto", *possible):
        raise ConfigError(
            f"task is {task!r} and {spec.architecture} can only {', '.join(possible)}; leave the "
            "option out"
        )


def _read_files(directory: Path) -> Pooling | None:
    """What modules.json and the folders that it names say; None where there is none."""
    path = directory / "modules.json"
    if not path.is_file():
        return None
    modules = _read_modules(path)
    pooling = Pooling("mean", normalize=False)
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in KNOWN_MODULES:
            raise ModelError(f"{path} has a module of type {kind!r}; known: Pooling, Normalize")
        if kind == "Normalize":
            pooling = replace(pooling, normalize=True)
        if kind == "Pooling":
            folder = str(module.get("path", ""))
            if Path(folder).name != folder:
                raise ModelError(f"{path} names {folder!r}, which is no folder beside it")
            chosen = read_json(directory / folder / "config.json")
            pooling = replace(pooling, kind=_kind(path, chosen))
    return pooling


def _read_modules(path: Path) -> list[Mapping[str, Any]]:
    """The objects in a file.  Raises ModelError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ModelError(f"{path} does not hold a list of objects")
    return found


def _kind(path: Path, chosen: Mapping[str, Any]) -> PoolingKind:
    """The one mode that is on; newer files name it."""
    named = chosen.get("pooling_mode")
    on = [
        name.removeprefix("pooling_mode_")
        for name, value in chosen.items()
        if name.startswith("pooling_mode_") and value is True
    ]
    on = [named] if isinstance(named, str) else on
    aliases: Mapping[str, PoolingKind] = {"mean": "mean", "cls": "first", **MODES}
    if len(on) != 1 or on[0] not in aliases:
        raise ModelError(
            f"{path}: the pooling is {', '.join(map(str, on)) or 'none'}; known: one of "
            f"{', '.join(MODES)}"
        )
    return aliases[on[0]]
