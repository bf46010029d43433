"""Every peer there is, by name."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.peers.checkpoints import cache
from bench.peers.llama_cpp import LlamaCpp
from bench.peers.peer import Peer
from bench.peers.python_peers import PYTHON_PEERS
from bench.peers.quire_peer import Quire

__all__ = ["DEFAULT_PEERS", "known_peers", "select"]

DEFAULT_PEERS = ("quire", "llama.cpp", "openvino")
"""The others start slowly or answer a question of their own; they run when they are named."""

HOW_TO_INSTALL = "not installed; run `python -m bench.peers install llama.cpp`"


def known_peers(quire: Sequence[str] = (), llama: Sequence[str] = ()) -> dict[str, Peer]:
    """Peers by name, those of the options after their kin.

    quire: NAME=PYTHON each; llama: NAME=DIRECTORY, which flags may follow.  Raises ValueError for
    anything else.
    """
    home = cache() / "llama.cpp"
    found: list[Peer] = [Quire(), Quire("quire-avx2", options={"instruction_set": "avx2"})]
    found += [Quire(name, Path(where).expanduser().absolute()) for name, where in map(_pair, quire)]
    found += [
        LlamaCpp("llama.cpp", home / "native", how_to_install=HOW_TO_INSTALL),
        LlamaCpp("llama.cpp-avx2", home / "avx2", how_to_install=HOW_TO_INSTALL),
    ]
    for name, text in map(_pair, llama):
        directory, *flags = shlex.split(text)
        found.append(LlamaCpp(name, Path(directory).expanduser().absolute(), tuple(flags)))
    return {peer.name: peer for peer in [*found, *PYTHON_PEERS]}


def select(peers: dict[str, Peer], names: str, given: Sequence[str]) -> list[Peer]:
    """The peers of a list with commas; "all"; or, for "", the usual ones and the given ones.

    Raises ValueError for a name that is not there.
    """
    wanted = names.split(",") if names else [*DEFAULT_PEERS, *(_pair(each)[0] for each in given)]
    if names == "all":
        wanted = list(peers)
    for name in wanted:
        if name not in peers:
            raise ValueError(f"there is no peer {name!r}; there are {', '.join(peers)}")
    return [peer for name, peer in peers.items() if name in wanted]


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise ValueError(f"{text!r} is not NAME=PATH")
    return name, value
