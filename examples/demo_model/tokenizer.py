"""Train the byte-level BPE tokenizer and write its Hugging Face files."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .corpus import load_corpus

VOCAB_SIZE = 5120
END_OF_TEXT, IM_START, IM_END = SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHINESE_COPIES = 5
MAX_TOKEN_CHARS = 16

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}"
    "{{ message['content'] + '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(work: Path) -> Tokenizer:
    """Train on the plain text with Chinese oversampled; save `tokenizer.json` under `work`."""
    streams = load_corpus(work)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_CHARS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(streams["en"] + streams["zh"] * CHINESE_COPIES, trainer)
    tokenizer.save(str(work / "tokenizer.json"))
    return tokenizer


def load_tokenizer(work: Path) -> Tokenizer:
    """Read back what `train_tokenizer` wrote."""
    return Tokenizer.from_file(str(work / "tokenizer.json"))


def write_tokenizer_config(folder: Path, max_length: int) -> None:
    """Write `tokenizer_config.json` and `special_tokens_map.json` into `folder`."""
    added = {
        str(index): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for index, token in enumerate(SPECIAL_TOKENS)
    }
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": [IM_START, IM_END],
        **names,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    special = {**names, "additional_special_tokens": [IM_START, IM_END]}
    for name, content in (("tokenizer_config", config), ("special_tokens_map", special)):
        write_json(folder / f"{name}.json", content)


def write_json(path: Path, content: object) -> None:
    """Indented UTF-8 JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
