"""Chooses the files of a hub repository that Quire can use, so that nothing else is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

__all__ = ["PICKLED", "UNUSED", "USED", "choose_files"]

# Configs and indices, weights, tokenizers, chat templates, vocabularies.
USED = ("*.json", "*.safetensors", "*.model", "*.tiktoken", "*.jinja", "*.txt")

# The weights of repositories that have no safetensors.
PICKLED = ("pytorch_model*.bin",)

# A second copy of the weights in Mistral's layout, and exports for other programs in folders; those
# with a number are sentence-transformers', such as 1_Pooling.
UNUSED = ("consolidated*", "[!0-9]*/*.json", "*/*.safetensors", "*/*.model", "*/*.txt", "*/*.bin")


def choose_files(names: Iterable[str]) -> list[str]:
    """Return the files to download; pickled weights only where there are no safetensors."""
    usable = [name for name in names if not _matches(name, UNUSED)]
    chosen = [name for name in usable if _matches(name, USED)]
    if any(name.endswith(".safetensors") for name in chosen):
        return chosen
    return chosen + [name for name in usable if _matches(name, PICKLED)]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Say whether a name fits one of the shell patterns; `*` also crosses folders."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
