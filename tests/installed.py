"""Which packages an install of Quire brings, from the metadata of what is installed here."""

from __future__ import annotations

import importlib.metadata as metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["packages"]


def packages(root: str = "quire") -> frozenset[str]:
    """The names of everything that `pip install` of root installs here, root left out."""
    found: set[str] = set()
    waiting = [(root, frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        for requirement in map(Requirement, metadata.requires(name) or ()):
            if not _applies(requirement, extras):
                continue
            child = canonicalize_name(requirement.name)
            if child not in found:
                found.add(child)
                waiting.append((child, frozenset(requirement.extras)))
    return frozenset(found)


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Whether the requirement's marker is true here, for any of the extras or for none."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))
