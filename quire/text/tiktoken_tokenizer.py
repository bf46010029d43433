"""Makes a tokenizer of a file of tiktoken ranks: a line for each token, in base64, and its rank."""

from __future__ import annotations

import binascii
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, processors

from quire.errors import CheckpointError
from quire.text.hf_tokenizer import HFTokenizer
from quire.text.pre_tokenizers import PreTokenizer
from quire.text.token_bytes import byte_level_alphabet
from quire.text.tokenizer_config import TokenizerConfig
from quire.text.tokenizer_family import FAMILIES, complete, find_family

__all__ = [
    "check_bytes",
    "is_rank_file",
    "load_tiktoken_tokenizer",
    "ranked_backend",
    "read_ranks",
    "spelled",
]

LETTERS = dict.fromkeys(range(256), "") | {b: c for c, b in byte_level_alphabet().items()}

LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n")
LONGEST_LINE = 4096


def is_rank_file(path: Path) -> bool:
    """Whether a file begins with a token and its rank, which no SentencePiece model does."""
    try:
        with path.open("rb") as file:
            return LINE.fullmatch(file.readline(LONGEST_LINE)) is not None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def load_tiktoken_tokenizer(path: Path, config: TokenizerConfig) -> HFTokenizer:
    """The tokenizer of a file of ranks, whose family is known by the file's name or the config.

    Raises CheckpointError for a damaged file, or for a family whose rules are not known.
    """
    family = find_family(config, path.name)
    if family is None or family.words is None:
        known = ", ".join(each.tokenizer_class for each in FAMILIES if each.words)
        raise CheckpointError(
            f"{path} holds tiktoken ranks, and how its family cuts text is not known: "
            f"tokenizer_class in tokenizer_config.json is {config.tokenizer_class!r}; known: "
            f"{known}; convert it to a tokenizer.json"
        )
    vocabulary = read_ranks(path)
    size = max(vocabulary.values()) + 1
    config = complete(config, family, size)
    backend = ranked_backend(vocabulary, family.words, config, config.prefix)
    return HFTokenizer(backend, config, str(path))


def ranked_backend(
    ranks: Mapping[str, int], words: PreTokenizer, config: TokenizerConfig, prefix: Sequence[str]
) -> tokenizers.Tokenizer:
    """Merges by rank in words, with the added tokens of a config at their ids.

    ranks: token in byte letters → id, in order.  prefix: tokens that stand before every text.
    """
    own = {added.content: token for token, added in config.added_tokens.items()}
    vocabulary = {**own, **ranks}
    # A whole word that is a token is never cut, as in tiktoken.
    model = models.BPE(vocabulary, list(_merges(ranks)), ignore_merges=True)
    backend = tokenizers.Tokenizer(model)
    words.apply_to(backend)
    backend.decoder = decoders.ByteLevel()
    known = [(token, vocabulary[token]) for token in prefix if token in vocabulary]
    if known:
        backend.post_processor = processors.TemplateProcessing(
            single=[*(token for token, _ in known), "$A"], special_tokens=known
        )
    return backend


def read_ranks(path: Path) -> dict[str, int]:
    """Token in byte letters → rank, in the order of the ranks.

    Raises CheckpointError, naming the line, for a file that does not hold ranks for every byte.
    """
    ranks: dict[str, int] = {}
    line = b""
    try:
        for line in filter(None, path.read_bytes().splitlines()):
            token, rank = line.split()
            ranks[spelled(binascii.a2b_base64(token))] = int(rank)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged at the line {line!r:.80}: {error}") from error
    check_bytes(path, ranks)
    if len(set(ranks.values())) < len(ranks):
        raise CheckpointError(f"{path} gives one rank to two tokens; download it again")
    return dict(sorted(ranks.items(), key=lambda entry: entry[1]))


def spelled(token: bytes) -> str:
    """A token in byte letters."""
    return token.decode("latin-1").translate(LETTERS)


def check_bytes(path: Path, tokens: Collection[str]) -> None:
    """Raise CheckpointError, naming the file, unless there is a token for every byte."""
    if missing := [byte for byte, letter in LETTERS.items() if letter not in tokens]:
        raise CheckpointError(f"{path} has no token for the byte {missing[0]}; download it again")


def _merges(ranks: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Every pair of tokens that makes a token, the token of the lowest rank first.

    Only one pair of a token's pairs can ever stand in a word when its turn comes: that at which the
    token's own bytes arrive by lower merges.  So it does not matter that the others are there too.
    """
    for token in ranks:
        for cut in range(1, len(token)):
            left = token[:cut]
            if left in ranks and (right := token[cut:]) in ranks:
                yield left, right
