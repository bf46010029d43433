"""Turns what the user calls a model into a path: a directory, a GGUF file, or a name on a hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from quire.errors import ConfigError, ModelError
from quire.weights import huggingface
from quire.weights.gguf.files import SUFFIX, find_gguf

__all__ = ["Source", "resolve_model"]

Source = Literal["huggingface", "modelscope"]

DEMO = Path(__file__).parent.parent / "demo"
REPOSITORY = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)


def resolve_model(
    model: str,
    revision: str | None = None,
    source: Source = "huggingface",
    offline: bool = False,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> Path:
    """Return the directory or GGUF file of the model, downloading it if it is a name on a hub.

    A directory without config.json and with one GGUF model stands for that.

    revision: a branch, tag or commit.  cache_dir: where downloads are kept, else the source's
    own place.  token: a hub access token, else what huggingface_hub finds (HF_TOKEN, a login).
    Raises ModelError, with the cure, if there is no such model or it cannot be had, ConfigError
    for another source.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        is_whole = (path / "config.json").is_file()
        return path if is_whole else find_gguf(path) or path
    if path.suffix == SUFFIX and path.is_file():
        return path
    if model == "demo":
        return DEMO
    if path.exists():
        raise ModelError(f"{model}: this is a file; give a checkpoint's directory, or a .gguf file")
    if path.suffix == SUFFIX:
        raise ModelError(f"{model}: no such file")
    if not REPOSITORY.fullmatch(model):
        raise ModelError(f"{model}: no such directory, and not a name on a hub as in org/name")
    cache = Path(cache_dir) if cache_dir is not None else None
    if source == "huggingface":
        return huggingface.download(model, revision, cache, offline, token)
    if source != "modelscope":
        raise ConfigError(f"source is {source!r}; use 'huggingface' or 'modelscope'")
    # Imported here: 40 ms for urllib that no other source needs.
    from quire.weights import modelscope

    endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or modelscope.ENDPOINT
    return modelscope.download(model, revision, cache, offline, token, endpoint)
