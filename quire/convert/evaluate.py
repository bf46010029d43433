"""Perplexity of a model on texts, and how far its predictions are from another model's.

A text is cut into pieces of window - 1 tokens, each scored behind one beginning-of-text token;
every token of the text is predicted once, and nothing carries over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quire.convert.divergence import Divergence, Likelihood, log_probabilities
from quire.convert.served_model import ServedModel
from quire.convert.texts import read_texts_of, start_token, windows
from quire.errors import ConfigError

__all__ = ["evaluate_texts"]


def evaluate_texts(
    model: ServedModel, against: ServedModel | None, paths: Sequence[str], window: int
) -> list[dict[str, Any]]:
    """Figures for every file: perplexity, bits per byte, and the divergence from `against`.

    Raises ConfigError for a file without text, and for models of different vocabularies.
    """
    if against is not None and against.vocab_size != model.vocab_size:
        raise ConfigError(
            f"{model.name} knows {model.vocab_size} tokens and {against.name} "
            f"{against.vocab_size}; only models with one tokenizer can be compared"
        )
    return [_evaluate(model, against, path, window) for path in paths]


def _evaluate(
    model: ServedModel, against: ServedModel | None, path: str, window: int
) -> dict[str, Any]:
    tokenizer = model.tokenizer()
    text = read_texts_of(Path(path), tokenizer)
    if not text:
        raise ConfigError(f"{path} holds no text; give a .txt or .jsonl file that does")
    ids = [token for each in text for token in tokenizer.encode(each, False)]
    likelihood, divergence = Likelihood(), Divergence()
    for tokens in windows(ids, start_token(tokenizer), window):
        known = tokens.tolist()
        pieces = model.logits(known)
        originals = against.logits(known) if against is not None else None
        at = 0
        for logits in pieces:
            following = tokens[at + 1 : at + 1 + len(logits)]
            rows = slice(0, len(following))
            if originals is None:
                likelihood.add(log_probabilities(logits[rows]), following)
            else:
                divergence.add(next(originals)[rows], logits[rows], following)
            at += len(logits)
    found = likelihood if against is None else divergence.other
    size = sum(len(each.encode()) for each in text)
    figures: dict[str, Any] = {
        "text": path,
        "tokens": found.tokens,
        "perplexity": found.perplexity,
        "bits_per_byte": found.nats / math.log(2) / size,
    }
    return figures if against is None else {**figures, **divergence.figures()}
