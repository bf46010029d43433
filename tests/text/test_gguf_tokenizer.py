"""A tokenizer in a GGUF file gives the ids of the directory's that it was written from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models

from quire.errors import CheckpointError
from quire.text.gguf_vocabulary import gguf_vocabulary
from quire.text.pre_tokenizers import PRE_TOKENIZERS
from quire.text.tokenizer import Tokenizer, load_tokenizer
from quire.weights.gguf.write import write_gguf

Load = Callable[[str], Tokenizer]
TEXTS = [
    "Hello, world! It's 1234.5 — DON'T  stop\n\n  now\t",
    "你好，世界！今天天气不错。編譯程序",
    "こんにちは、テキスト。日本語のトークン",
    "สวัสดีชาวโลก ภาษาไทย",
    "안녕하세요 한국어",
    "👩\u200d👩\u200d👧 😀🇨🇳 e\u0301 é",
    "def f(x):\n    return x+1  # <tool_call>{'a': 1}</s>\r\n",
    "<|im_start|>user\nhello<|im_end|>\n<s>x</s><|bos|>",
    "",
    " ",
]


def save(directory: Path, metadata: dict[str, Any]) -> Path:
    path = directory / "vocabulary.gguf"
    write_gguf(path, {"general.architecture": "llama", **metadata}, {}, lambda name: ("F32", 0))
    return path


def sentencepiece_metadata(directory: Path, **changes: Any) -> dict[str, Any]:
    """What the usual converter writes for a tokenizer.model."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    pieces = range(model.get_piece_size())
    kinds = {model.is_unknown: 2, model.is_control: 3, model.is_unused: 5, model.is_byte: 6}
    types = [next((kind for test, kind in kinds.items() if test(i)), 1) for i in pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in pieces],
        "tokenizer.ggml.scores": np.array([model.get_score(i) for i in pieces], np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **changes,
    }


@pytest.fixture(scope="module")
def pairs(
    directories: dict[str, Path], load: Load, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Tokenizer, Tokenizer]]:
    """Tokenizers of directories, and of the GGUF files written from them."""
    found = {}
    for kind in ("byte_level", "demo", "sentencepiece"):
        place = tmp_path_factory.mktemp(kind)
        if kind == "sentencepiece":
            metadata = sentencepiece_metadata(directories[kind])
        else:
            metadata = gguf_vocabulary(directories[kind], load(kind).vocab_size)
        found[kind] = load(kind), load_tokenizer(save(place, metadata))
    place, size = tmp_path_factory.mktemp("pieces"), load("sentencepiece").vocab_size
    pieces = save(place, gguf_vocabulary(directories["sentencepiece"], size))
    found["pieces"] = load("sentencepiece"), load_tokenizer(pieces)
    return found


EACH = pytest.mark.parametrize("kind", ["byte_level", "demo", "sentencepiece", "pieces"])


def same(pair: tuple[Tokenizer, Tokenizer], text: str) -> None:
    ours, theirs = pair[1].encode(text), pair[0].encode(text)
    assert ours == theirs
    assert pair[1].decode(ours) == pair[0].decode(theirs)


@EACH
def test_texts_of_many_languages(pairs: dict[str, tuple[Tokenizer, Tokenizer]], kind: str) -> None:
    for text in TEXTS:
        same(pairs[kind], text)


LETTERS = [*"ab hello,.!'▁_ \n\t1你好😀é한", "\u200d"]


@EACH
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from(LETTERS)))
def test_any_text(pairs: dict[str, tuple[Tokenizer, Tokenizer]], kind: str, text: str) -> None:
    same(pairs[kind], text)


@EACH
def test_facts_are_the_same(pairs: dict[str, tuple[Tokenizer, Tokenizer]], kind: str) -> None:
    theirs, ours = pairs[kind]
    assert ours.vocab_size == theirs.vocab_size
    assert ours.special_ids == theirs.special_ids
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.chat_templates == theirs.chat_templates
    for token in range(theirs.vocab_size):
        assert ours.token_bytes(token) == theirs.token_bytes(token)


def test_texts_begin_and_end_as_the_file_says(directories: dict[str, Path], tmp_path: Path) -> None:
    metadata = gguf_vocabulary(directories["byte_level"], 800)
    ends = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    plain = load_tokenizer(save(tmp_path, metadata))
    (tmp_path / "2").mkdir()
    whole = load_tokenizer(save(tmp_path / "2", {**metadata, **ends}))
    inner = plain.encode("hello")
    assert whole.encode("hello") == [whole.bos_token_id, *inner, whole.eos_token_id]
    assert whole.encode("hello", add_special_tokens=False) == inner
    (tmp_path / "3").mkdir()
    flags = {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False}
    bare = sentencepiece_metadata(directories["sentencepiece"], **flags)
    tokenizer = load_tokenizer(save(tmp_path / "3", bare))
    assert tokenizer.encode("hello")[0] != tokenizer.bos_token_id
    assert tokenizer.token_bytes(tokenizer.encode(" hello")[0], leading=True).startswith(b" ")


def test_bos_comes_by_itself_where_the_family_has_it(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    metadata = gguf_vocabulary(directories["byte_level"], 800)
    del metadata["tokenizer.ggml.add_bos_token"]
    tokenizer = load_tokenizer(save(tmp_path, {**metadata, "tokenizer.ggml.pre": "llama-bpe"}))
    assert tokenizer.encode("hello")[0] == tokenizer.bos_token_id


def test_user_defined_tokens_are_matched_whole(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    metadata = sentencepiece_metadata(directories["sentencepiece"])
    metadata["tokenizer.ggml.tokens"] += ["<|im_start|>", "<tool>"]
    metadata["tokenizer.ggml.scores"] = np.append(metadata["tokenizer.ggml.scores"], [-1e3] * 2)
    metadata["tokenizer.ggml.scores"] = metadata["tokenizer.ggml.scores"].astype(np.float32)
    types = np.append(metadata["tokenizer.ggml.token_type"], [3, 4]).astype(np.int32)
    metadata["tokenizer.ggml.token_type"] = types
    tokenizer = load_tokenizer(save(tmp_path, metadata))
    size = len(types)
    assert [size - 2, size - 1] == [
        token for token in tokenizer.encode("<|im_start|>hello<tool>") if token >= size - 2
    ]
    assert size - 2 in tokenizer.special_ids
    assert size - 1 not in tokenizer.special_ids


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_every_pre_tokenizer_compiles_and_keeps_the_text(name: str) -> None:
    backend = Backend(models.BPE())
    PRE_TOKENIZERS[name].apply_to(backend)
    for text in TEXTS:
        pieces = backend.pre_tokenizer.pre_tokenize_str(text)
        assert [span for _, span in pieces] == sorted(span for _, span in pieces)
        assert sum(end - start for _, (start, end) in pieces) >= len(text) or not text


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gpt-2", "It's 1234 ok", ["It", "'s", "Ġ1234", "Ġok"]),
        ("llama-bpe", "It's 12345 ok", ["It", "'s", "Ġ", "123", "45", "Ġok"]),
        ("qwen2", "It'S 12 ok", ["It", "'S", "Ġ", "1", "2", "Ġok"]),
        ("gpt-4o", "aB's", ["a", "B's"]),
        ("tekken", "aB12", ["a", "B", "1", "2"]),
        ("bloom", "a b. 中，c", ["a", "Ġb", ".", "Ġä¸Ń", "ï¼Į", "c"]),
        ("starcoder", "a 12", ["a", "Ġ", "1", "2"]),
        ("deepseek-v3", "a1234", ["a", "123", "4"]),
        ("deepseek-llm", "a 12", ["a", "Ġ", "1", "2"]),
        ("default", "a1234$$", ["a", "123", "4", "$$"]),
    ],
)
def test_words_are_cut_as_the_name_says(name: str, text: str, words: list[str]) -> None:
    backend = Backend(models.BPE())
    PRE_TOKENIZERS[name].apply_to(backend)
    assert [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == words


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("model", "bert", "known: gpt2, llama"),
        ("pre", "unheard-of", "known: default, gpt-2"),
        ("tokens", 3, "no array of strings"),
        ("tokens", ["a", "a"], "token_type is not one number for each"),
        ("merges", ["ab"], "is not two tokens"),
        ("merges", ["q zz"], "do not fit"),
        ("token_type", np.zeros(3, np.int32), "not one number for each"),
        ("add_bos_token", 1, "not a bool"),
    ],
)
def test_damage_is_named(
    directories: dict[str, Path], tmp_path: Path, key: str, value: Any, match: str
) -> None:
    metadata = gguf_vocabulary(directories["byte_level"], 800)
    path = save(tmp_path, {**metadata, f"tokenizer.ggml.{key}": value})
    with pytest.raises(CheckpointError, match=match):
        load_tokenizer(path)


def test_a_tokenizer_that_gguf_cannot_name_is_refused(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="not byte-level BPE"):
        gguf_vocabulary(directories["word_piece"], 800)
    state = json.loads((directories["byte_level"] / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
    level = {**state["pre_tokenizer"], "use_regex": False}
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="no name for"):
        gguf_vocabulary(tmp_path, 800)
