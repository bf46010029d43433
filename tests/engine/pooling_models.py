"""Random checkpoints of models that embed and score, each with a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from quire.models.families.bert import TINY
from quire.models.families.decoder import TINY as DECODER

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "no", "yes", "what", "is", "a", "quire", "paper", "?"]
CLASSES = {
    "bert": "BertModel",
    "xlm-roberta": "XLMRobertaModel",
    "reranker": "XLMRobertaForSequenceClassification",
    "qwen3": "Qwen3ForCausalLM",
}


def build(kind: str, directory: Path, pooling: str | None = None, normalize: bool = True) -> Any:
    """Write a checkpoint and return the transformers model.

    pooling: what sentence-transformers' files say; None: there are none.
    """
    import torch
    import transformers

    torch.manual_seed(7)
    if kind == "qwen3":
        config = transformers.Qwen3Config(**{**DECODER, "head_dim": 16})
    elif kind == "bert":
        config = transformers.BertConfig(**TINY, hidden_act="gelu")
    else:
        fields = {**TINY, "pad_token_id": 1, "type_vocab_size": 1}
        config = transformers.XLMRobertaConfig(**fields, num_labels=1)
    model = getattr(transformers, CLASSES[kind])(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                is_norm = "norm" in name.lower() and name.endswith("weight")
                parameter.normal_(1.0 if is_norm else 0.0, 0.2)
            else:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(directory)
    _write_tokenizer(directory, with_ends=kind != "qwen3")
    if pooling is not None:
        _write_modules(directory, pooling, normalize)
    return model


def _write_tokenizer(directory: Path, with_ends: bool) -> None:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    vocabulary |= {f"w{number}": number for number in range(len(WORDS), 128)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if with_ends:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[("<s>", 0), ("</s>", 2)],
        )
    backend.save(str(directory / "tokenizer.json"))


def _write_modules(directory: Path, pooling: str, normalize: bool) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": n, "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    modes = ("mean_tokens", "cls_token", "lasttoken", "max_tokens")
    chosen = {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(chosen))
