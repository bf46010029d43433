"""Files of tiktoken ranks: cut and merged as tiktoken does, told from SentencePiece by content."""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from quire.errors import CheckpointError
from quire.text.hf_tokenizer import HFTokenizer
from quire.text.pre_tokenizers import GLM_4_WORDS, KIMI_WORDS, QWEN_WORDS, PreTokenizer
from quire.text.tiktoken_tokenizer import is_rank_file, read_ranks
from quire.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.conftest import ranks

Load = Callable[[str], Tokenizer]

TEXTS = [
    "I'Ll don't camelCaseWORD naïve",
    "价格12345元, 日本語テキストの例",
    "한국어 모델 v2.5",
    "ภาษาไทยง่าย ฉันรัก",
    "مرحبا بالعالم ١٢٣٤",
    "👩\u200d👩\u200d👧 🇨🇳🎉 ok",
    "def f(x):\n\n\treturn x+1  # ½\r\n",
    " \u3000 \n  a   b  ",
]
_WORDS = ["I", "'Ll", " don", "'t", " camelCaseWORD", " naïve"]
_THAI = ["ภาษาไทยง", "่าย", " ฉ", "ันร", "ัก"]
_SAME = [
    ["👩\u200d👩\u200d👧", " 🇨🇳🎉", " ok"],
    ["def", " f", "(x", "):\n\n", "\treturn", " x", "+", "1", " ", " #", " ", "½", "\r\n"],
    [" \u3000 \n", " ", " a", "  ", " b", "  "],
]
_KOREAN = ["한국어", " 모델", " v", "2", ".", "5"]
CUTS = {
    "qwen": [
        _WORDS,
        ["价格", "1", "2", "3", "4", "5", "元", ",", " 日本語テキストの例"],
        _KOREAN,
        _THAI,
        ["مرحبا", " بالعالم", " ", "١", "٢", "٣", "٤"],
        *_SAME,
    ],
    "glm": [
        _WORDS,
        ["价格", "123", "45", "元", ",", " 日本語テキストの例"],
        _KOREAN,
        _THAI,
        ["مرحبا", " بالعالم", " ", "١٢٣", "٤"],
        *_SAME,
    ],
    "kimi": [
        ["I'Ll", " don't", " camel", "Case", "WORD", " naïve"],
        ["价格", "123", "45", "元", ",", " ", "日本語", "テキストの", "例"],
        _KOREAN,
        ["ภาษาไทยง่าย", " ฉันรัก"],
        ["مرحبا", " بالعالم", " ", "١٢٣", "٤"],
        *_SAME,
    ],
}
WORDS = {"qwen": QWEN_WORDS, "glm": GLM_4_WORDS, "kimi": KIMI_WORDS}


def words(cut: PreTokenizer, text: str) -> list[str]:
    (pattern,) = cut.patterns
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return [word for word, _ in split.pre_tokenize_str(text)]


def lowest_rank_first(ranks: Mapping[bytes, int], word: bytes) -> list[int]:
    """What tiktoken does with a word, as slowly as it can be said."""
    if word in ranks:
        return [ranks[word]]
    parts = [word[n : n + 1] for n in range(len(word))]
    while True:
        pairs = [(ranks.get(a + b), n) for n, (a, b) in enumerate(itertools.pairwise(parts))]
        known = [(rank, n) for rank, n in pairs if rank is not None]
        if not known:
            return [ranks[part] for part in parts]
        _, at = min(known)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def write(directory: Path, tokens: list[bytes], name: str = "qwen.tiktoken") -> Path:
    lines = [base64.b64encode(token).decode() + f" {rank}\n" for rank, token in enumerate(tokens)]
    (directory / name).write_text("".join(lines))
    return directory


@pytest.mark.parametrize("family", CUTS)
@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_text_is_cut_as_the_familys_own_class_does(family: str, number: int) -> None:
    """The expected cuts were made by the families' patterns in tiktoken's and Python's regex."""
    assert words(WORDS[family], TEXTS[number]) == CUTS[family][number]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 30))
def test_merges_are_those_of_the_lowest_rank(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, seed: int
) -> None:
    """For any tokens at all, also those that no training could have found."""
    draw = random.Random(seed)
    made = {bytes(draw.choices(b"abc", k=draw.randint(2, 5))) for _ in range(40)}
    tokens = [bytes([byte]) for byte in range(256)] + draw.sample(sorted(made), len(made))
    if seed not in SEEN:
        SEEN[seed] = load_tokenizer(write(tmp_path_factory.mktemp("ranks"), tokens))
    whole = st.sampled_from(tokens[256:]).map(bytes.decode)  # a word that is a token
    text = data.draw(st.text("abc", min_size=1, max_size=40) | whole)
    known = {token: rank for rank, token in enumerate(tokens)}
    assert SEEN[seed].encode(text) == lowest_rank_first(known, text.encode())


SEEN: dict[int, Tokenizer] = {}


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30) | st.sampled_from(TEXTS))
def test_a_trained_file_encodes_as_its_ranks_say(
    directories: dict[str, Path], load: Load, text: str
) -> None:
    lines = (directories["ranks"] / "tokenizer.model").read_text().splitlines()
    known = {base64.b64decode(a): int(b) for a, b in (line.split() for line in lines)}
    expected = [t for w in words(GLM_4_WORDS, text) for t in lowest_rank_first(known, w.encode())]
    assert load("ranks").encode(text, add_special_tokens=False) == expected
    assert load("ranks").decode(expected) == text


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "class_name", "words"),
    [
        ("qwen.tiktoken", "QWenTokenizer", QWEN_WORDS),
        ("tokenizer.model", "ChatGLM4Tokenizer", GLM_4_WORDS),
        ("tiktoken.model", "TikTokenTokenizer", KIMI_WORDS),
    ],
)
def test_it_encodes_as_tiktoken(
    tmp_path: Path, name: str, class_name: str, words: PreTokenizer
) -> None:
    tiktoken = pytest.importorskip("tiktoken", reason="the oracle is not installed")
    tokenizer = load_tokenizer(ranks(tmp_path, name, tokenizer_class=class_name))
    lines = (tmp_path / name).read_text().splitlines()
    known = {base64.b64decode(a): int(b) for a, b in (line.split() for line in lines)}
    (pattern,) = words.patterns
    oracle = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=known, special_tokens={})

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=60) | st.sampled_from(TEXTS))
    def same(text: str) -> None:
        assume(not re.search(r"<.+>|\[.+\]", text))  # special tokens
        asked = unicodedata.normalize("NFC", text) if words.nfc else text
        assert tokenizer.encode(text, add_special_tokens=False) == oracle.encode_ordinary(asked)

    same()


def test_the_file_has_400_ranks(directories: dict[str, Path]) -> None:
    assert len(read_ranks(directories["ranks"] / "tokenizer.model")) == 400


def test_qwens_specials_follow_its_ranks(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ranks(tmp_path, "qwen.tiktoken", tokenizer_class="QWenTokenizer"))
    assert tokenizer.encode("<|endoftext|><|im_start|><|im_end|><|extra_204|>") == [
        *(400, 401, 402, 607)
    ]
    assert (tokenizer.eos_token_id, tokenizer.turn_end_ids) == (400, {402})
    assert tokenizer.vocab_size == 608
    assert tokenizer.special_ids == set(range(400, 608))
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("caf\u00e9")


def test_glm_4_begins_every_text_with_its_prefix(load: Load) -> None:
    tokenizer = load("ranks")
    plain = tokenizer.encode("hello", add_special_tokens=False)
    assert tokenizer.encode("hello") == tokenizer.encode("[gMASK]<sop>hello", False)
    assert tokenizer.encode("hello") == [402, 404, *plain]
    assert tokenizer.turn_end_ids == {407, 409}
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"


def test_kimis_named_tokens_stand_among_reserved_ones(tmp_path: Path) -> None:
    named = {"400": "[BOS]", "402": "<|im_end|>", "417": "<|im_middle|>"}
    added = {token: {"content": name, "special": True} for token, name in named.items()}
    ranks(
        tmp_path,
        "tiktoken.model",
        tokenizer_class="TikTokenTokenizer",
        added_tokens_decoder={**added, "403": {"content": "<|tool|>", "special": False}},
    )
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("[BOS]<|im_end|><|im_middle|><|tool|>") == [400, 402, 417, 403]
    assert tokenizer.token_text(401) == "<|reserved_token_401|>"
    assert (tokenizer.vocab_size, tokenizer.bos_token_id) == (656, 400)
    assert 403 not in tokenizer.special_ids
    assert tokenizer.turn_end_ids == {402}


def test_the_name_of_the_file_tells_the_family(tmp_path: Path) -> None:
    ranks(tmp_path, "qwen.tiktoken")
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).turn_end_ids == {402}


def test_auto_map_tells_the_family(tmp_path: Path) -> None:
    own = {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]}
    tokenizer = load_tokenizer(ranks(tmp_path, tokenizer_class=None, auto_map=own))
    assert tokenizer.encode("")[:1] == [402]


def test_ranks_of_an_unknown_family_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model.*'OtherTokenizer'.*QWenTok"):
        load_tokenizer(ranks(tmp_path, tokenizer_class="OtherTokenizer"))


@pytest.mark.parametrize("content", [b"", b"\n\x0f\n\x05<unk>", b"{}\n", b"IQ== x\n", b"IQ==\n"])
def test_what_is_no_rank_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_rank_file(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("IQ== 0\nIg==\n", "line b'Ig=='"),
        ("IQ== 0\nIg== x\n", "line b'Ig== x'"),
        ("IQ== 0\nI 1\n", "line b'I 1'"),
        ("IQ== 0\n", "no token for the byte 0"),
    ],
)
def test_a_damaged_rank_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "qwen.tiktoken").write_text(content)
    with pytest.raises(CheckpointError, match=rf"qwen\.tiktoken.*{message}"):
        read_ranks(tmp_path / "qwen.tiktoken")


def test_two_tokens_of_one_rank_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [bytes([byte]) for byte in range(256)])
    with (tmp_path / "qwen.tiktoken").open("a") as file:
        file.write("YWE= 7\n")
    with pytest.raises(CheckpointError, match="one rank to two tokens"):
        read_ranks(tmp_path / "qwen.tiktoken")


def test_the_config_may_rename_a_special(tmp_path: Path) -> None:
    added = {"406": {"content": "[start]", "special": True}}
    tokenizer = load_tokenizer(ranks(tmp_path, added_tokens_decoder=added, chat_template="mine"))
    assert isinstance(tokenizer, HFTokenizer)
    assert tokenizer.token_text(406) == "[start]"
    assert tokenizer.chat_template == "mine"


def test_a_special_that_is_also_a_rank_is_refused(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)]
    write(tmp_path, [*tokens, b"<|im_end|>"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="im_end"):
        load_tokenizer(tmp_path)
