"""Tokenizers of every kind, trained here in a second: no downloads."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Backend

from quire.text import token_bytes as quire_token_bytes
from quire.text import tokenizer as quire_tokenizer

DEMO = Path(quire_tokenizer.__file__).parents[1] / "demo"
WORDS = [
    *("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "don't", "can't", "!"),
    *("hello", "world", ",", ".", "?", "café", "naïve", "résumé", "def", "f(x):", "return", "x+1"),
    *("世界", "你好", "我们", "今天", "天气", "不错", "编译", "程序", "語言", "모델", "日本語"),
    *("テキスト", "😀", "🎉", "👩\u200d👩\u200d👧", "🇨🇳"),
]
SPECIALS = ["<unk>", "<s>", "</s>"]


def corpus() -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=12)) for _ in range(2000)]


def save(backend: Backend, directory: Path, **config: object) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def byte_level(directory: Path) -> Path:
    """As Llama 3 and Qwen: byte-level BPE, special and ordinary added tokens."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=["<|bos|>", "<|im_end|>"]
    )
    backend.train_from_iterator(corpus(), trainer)
    backend.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("é 好")])
    return save(backend, directory, bos_token="<|bos|>", eos_token="<|im_end|>")


def llama2(directory: Path) -> Path:
    """As Llama 2's tokenizer.json: metaspace, byte fallback, one leading space stripped."""
    backend = Backend(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    pieces = SPECIALS + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=pieces, limit_alphabet=60)
    backend.train_from_iterator([text.replace(" ", "▁") for text in corpus()], trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in SPECIALS]
    backend = Backend.from_str(json.dumps(state))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return save(backend, directory, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def metaspace(directory: Path) -> Path:
    """As T5 and its like: a unigram model with a Metaspace decoder and no bytes."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(corpus(), trainer)
    return save(backend, directory, bos_token="<s>", eos_token="</s>")


def word_piece(directory: Path) -> Path:
    """As BERT: "##" continues a word, and spaces before punctuation are cleaned up."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special)
    backend.train_from_iterator(corpus(), trainer)
    return save(backend, directory, cls_token="[CLS]", sep_token="[SEP]", eos_token="[SEP]")


def end_of_word(directory: Path) -> Path:
    """As the first GPT: "</w>" ends a word, so a token's text depends on what follows."""
    backend = Backend(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, end_of_word_suffix="</w>"
    )
    backend.train_from_iterator(corpus(), trainer)
    return save(backend, directory, eos_token="</s>")


def whole_words(directory: Path) -> Path:
    """No decoder at all: tokens are joined by spaces."""
    backend = Backend(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIALS)
    backend.train_from_iterator(corpus(), trainer)
    return save(backend, directory, eos_token="</s>")


def sentencepiece(directory: Path, model_type: str = "bpe", **config: object) -> Path:
    """As Llama 2's tokenizer.model."""
    import sentencepiece as library

    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "tokenizer.model").open("wb") as file:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus()),
            model_writer=file,
            vocab_size=700,
            model_type=model_type,
            byte_fallback=True,
            character_coverage=0.98,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def sentencepiece_chat(directory: Path) -> Path:
    """A unigram tokenizer.model with tokens that only tokenizer_config.json knows."""
    added = {
        "2000": {"content": "<|im_start|>", "special": True},
        "2001": {"content": "<tool>", "special": False, "lstrip": True, "rstrip": True},
    }
    names = {"added_tokens_decoder": added, "additional_special_tokens": ["<|im_start|>"]}
    return sentencepiece(directory, "unigram", legacy=False, **names)


def ranks(directory: Path, name: str = "tokenizer.model", **config: object) -> Path:
    """As Qwen, GLM-4 and Kimi-K2: byte-level BPE as a file of tiktoken ranks."""
    alphabet = quire_token_bytes.byte_level_alphabet()
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False)
    backend.train_from_iterator(corpus(), trainer)
    tokens = sorted(backend.get_vocab().items(), key=lambda entry: entry[1])
    lines = [
        base64.b64encode(bytes(alphabet[letter] for letter in token)).decode() + f" {rank}\n"
        for token, rank in tokens
    ]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("".join(lines))
    config = {"tokenizer_class": "ChatGLM4Tokenizer", **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def chatglm3(directory: Path) -> Path:
    """SentencePiece with a class that adds tokens and a prefix."""
    return sentencepiece(directory, tokenizer_class="ChatGLMTokenizer")


KINDS: dict[str, Callable[[Path], Path]] = {
    "byte_level": byte_level,
    "llama2": llama2,
    "metaspace": metaspace,
    "word_piece": word_piece,
    "end_of_word": end_of_word,
    "whole_words": whole_words,
    "sentencepiece": sentencepiece,
    "sentencepiece_chat": sentencepiece_chat,
    "ranks": ranks,
    "chatglm3": chatglm3,
}


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint directory per kind of tokenizer."""
    root = tmp_path_factory.mktemp("tokenizers")
    found = {name: build(root / name) for name, build in KINDS.items()}
    if (DEMO / "tokenizer.json").is_file():
        found["demo"] = DEMO
    return found


@pytest.fixture(scope="session")
def load(directories: dict[str, Path]) -> Callable[[str], quire_tokenizer.Tokenizer]:
    """Load a tokenizer by kind; skips the demo's where it is not there."""
    loaded: dict[str, quire_tokenizer.Tokenizer] = {}

    def find(name: str) -> quire_tokenizer.Tokenizer:
        if name not in directories:
            pytest.skip(f"no tokenizer {name!r} in this checkout")
        if name not in loaded:
            loaded[name] = quire_tokenizer.load_tokenizer(directories[name])
        return loaded[name]

    return find


@pytest.fixture(scope="session", params=[*KINDS, "demo"])
def tokenizer(
    request: pytest.FixtureRequest, load: Callable[[str], quire_tokenizer.Tokenizer]
) -> quire_tokenizer.Tokenizer:
    """Each kind of tokenizer in turn."""
    return load(request.param)
