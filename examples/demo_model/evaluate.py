"""Held-out perplexity: one precise window rule that any other tool can repeat.

The file is read as one string and encoded without special tokens. It is cut into consecutive,
non-overlapping pieces of 511 tokens; each piece is scored after one end-of-text token, so a full
context holds 512 tokens, every token of the file is predicted exactly once, and nothing carries
over from one piece to the next. Bits per byte divides by the UTF-8 size of the whole file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import PreTrainedModel

WINDOW = 512
END_OF_TEXT_ID = 0
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class HeldoutScore:
    """Total negative log-likelihood, in nats, of one held-out file."""

    nats: float
    tokens: int
    size: int

    @property
    def loss(self) -> float:
        """Mean nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Independent of the tokenizer."""
        return self.nats / math.log(2) / self.size

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens, {self.size} bytes, loss {self.loss:.4f},"
            f" perplexity {self.perplexity:.3f}, bits per byte {self.bits_per_byte:.4f}"
        )


@torch.no_grad()
def score_file(model: PreTrainedModel, tokenizer: Tokenizer, path: Path) -> HeldoutScore:
    """Score one file by the rule above; the softmax is always taken in float32."""
    text = path.read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    was_training = model.training
    model.eval()
    nats = 0.0
    for start in range(0, len(ids), WINDOW - 1):
        piece = torch.tensor([[END_OF_TEXT_ID, *ids[start : start + WINDOW - 1]]])
        logits = model(piece, use_cache=False).logits[0, :-1].float()
        nats += functional.cross_entropy(logits, piece[0, 1:], reduction="sum").item()
    model.train(was_training)
    return HeldoutScore(nats, len(ids), len(text.encode("utf-8")))


def score_languages(
    model: PreTrainedModel, tokenizer: Tokenizer, folder: Path
) -> dict[str, HeldoutScore]:
    """Score `heldout.en.txt` and `heldout.zh.txt` of a folder."""
    return {
        name: score_file(model, tokenizer, folder / f"heldout.{name}.txt") for name in LANGUAGES
    }
