"""BERT, RoBERTa and XLM-RoBERTa: encoders, for embeddings and for scoring pairs of texts.

Each token sees all of its text; positions and types are learned tables; norms stand behind the
sums.  Sources: arXiv:1810.04805, arXiv:1911.02116, the BertModel and XLMRoberta classes of
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.places import Place
from quire.models.registry import family
from quire.models.spec import (
    MLP,
    Attention,
    Block,
    Classifier,
    Embedding,
    Linear,
    ModelSpec,
    Norm,
    Split,
    Weight,
)

__all__ = ["bert", "xlm_roberta", "xlm_roberta_classifier"]

TINY: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


@family("BertModel", "BertForMaskedLM", tiny=TINY)
def bert(config: ConfigReader) -> ModelSpec:
    """BERT encoders, such as MiniLM and BGE."""
    return _encoder(config, "bert.", first_position=0)


@family("XLMRobertaModel", "RobertaModel", "RobertaForMaskedLM", tiny={**TINY, "pad_token_id": 1})
def xlm_roberta(config: ConfigReader) -> ModelSpec:
    """RoBERTa and XLM-RoBERTa encoders, such as BGE-M3 and multilingual E5."""
    return _encoder(config, "roberta.", config.integer("pad_token_id", 1) + 1)


@family(
    "XLMRobertaForSequenceClassification",
    "RobertaForSequenceClassification",
    tiny={**TINY, "pad_token_id": 1},
)
def xlm_roberta_classifier(config: ConfigReader) -> ModelSpec:
    """RoBERTa and XLM-RoBERTa rerankers, such as BGE-reranker-v2-m3."""
    labels = config.get("id2label") or {0: ""}
    width = config.positive("hidden_size")
    classifier = Classifier(
        parts.linear("classifier.dense", width, width, None, bias=True),
        parts.linear("classifier.out_proj", len(labels), width, None, bias=True),
    )
    return replace(xlm_roberta(config), output="scores", classifier=classifier)


def _encoder(config: ConfigReader, prefix: str, first_position: int) -> ModelSpec:
    """prefix: what stands before the weights' names in checkpoints with a head."""
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ModelError(
            f"{config.architecture}: position_embedding_type {kind!r} is not supported; known: "
            "absolute"
        )
    config.flag("tie_word_embeddings", True)  # of a head that is not run
    make = _Parts(config, prefix)
    positions = config.positive("max_position_embeddings", 512)
    width, vocab_size = config.positive("hidden_size"), config.positive("vocab_size")
    table = make.weight("embeddings.word_embeddings.weight", (vocab_size, width), "rows")
    types = config.positive("type_vocab_size", 2)
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=vocab_size,
        width=width,
        max_length=positions - first_position,
        dtype=parts.dtype(config),
        embedding=Embedding(
            table,
            positions=make.weight("embeddings.position_embeddings.weight", (positions, width)),
            first_position=first_position,
            types=make.weight("embeddings.token_type_embeddings.weight", (types, width)),
            norm=make.norm("embeddings.LayerNorm"),
        ),
        blocks=tuple(make.block(f"encoder.layer.{i}.") for i in range(parts.num_layers(config))),
        norm=None,
        head=Linear(table),
        output="hidden",
        unused=("pooler.", f"{prefix}pooler.", "cls.", "lm_head."),
    )


class _Parts:
    """Makes the parts of one encoder from values read once."""

    def __init__(self, config: ConfigReader, prefix: str) -> None:
        self._prefix = prefix
        self._width = config.positive("hidden_size")
        self._inner = config.positive("intermediate_size")
        self._heads = config.positive("num_attention_heads")
        self._eps = config.number("layer_norm_eps", 1e-12, low=0.0, high=1.0)
        self._activation = parts.activation(config, default="gelu")
        if self._width % self._heads:
            raise ModelError(
                f"{config.architecture}: hidden_size {self._width} is not a multiple of "
                f"num_attention_heads {self._heads}"
            )

    def weight(
        self, name: str, shape: tuple[int, ...], split: Split = None, unit: int = 1
    ) -> Weight:
        """A tensor that may have the prefix."""
        return Weight(name, shape, split, unit, (Place(self._prefix + name, shape),))

    def linear(self, name: str, out: int, width: int, split: Split, unit: int = 1) -> Linear:
        """name.weight and name.bias."""
        return Linear(
            self.weight(name + ".weight", (out, width), split, unit),
            self.weight(name + ".bias", (out,), split if split == "rows" else None, unit),
        )

    def norm(self, name: str) -> Norm:
        """A layer norm over the width."""
        weight, bias = (self.weight(f"{name}.{end}", (self._width,)) for end in ("weight", "bias"))
        return Norm(weight, self._eps, "layer", bias)

    def block(self, prefix: str) -> Block:
        """Attention and MLP, each with a norm behind its sum."""
        width, inner = self._width, self._inner
        return Block(
            attention_norm=None,
            attention=self._attention(prefix + "attention."),
            attention_sum_norm=self.norm(prefix + "attention.output.LayerNorm"),
            mlp_norm=None,
            mlp=MLP(
                up=self.linear(prefix + "intermediate.dense", inner, width, "rows"),
                down=self.linear(prefix + "output.dense", width, inner, "columns"),
                activation=self._activation,
            ),
            mlp_sum_norm=self.norm(prefix + "output.LayerNorm"),
        )

    def _attention(self, prefix: str) -> Attention:
        width, dim = self._width, self._width // self._heads
        return Attention(
            query=self.linear(prefix + "self.query", width, width, "rows", dim),
            key=self.linear(prefix + "self.key", width, width, "rows", dim),
            value=self.linear(prefix + "self.value", width, width, "rows", dim),
            output=self.linear(prefix + "output.dense", width, width, "columns", dim),
            heads=self._heads,
            kv_heads=self._heads,
            head_dim=dim,
            scale=dim**-0.5,
            rope=None,
            bidirectional=True,
        )
