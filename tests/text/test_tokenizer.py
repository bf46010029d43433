"""Tokenizers load from what a checkpoint has, agree with their libraries, and refuse damage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from quire.errors import CheckpointError, RequestError
from quire.text.tokenizer import Tokenizer, load_tokenizer

Load = Callable[[str], Tokenizer]
FILES = ["byte_level", "llama2", "metaspace", "word_piece", "whole_words", "end_of_word"]
BYTE_EXACT = ["byte_level", "llama2", "sentencepiece", "sentencepiece_chat", "ranks", "chatglm3"]
TEXTS = st.text(
    st.sampled_from(
        list("ab hello,.!'▁_ \n\t") + ["你", "好", "世", "😀", "é", "é", "\u200d", "한"]
    )
)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), skip=st.booleans())
@pytest.mark.parametrize("kind", FILES)
def test_decode_equals_the_library(
    directories: dict[str, Path], load: Load, kind: str, data: st.DataObject, skip: bool
) -> None:
    """Byte by byte where the library keeps the text; it gives up whole runs of broken bytes."""
    tokenizer = load(kind)
    backend = Backend.from_file(str(directories[kind] / "tokenizer.json"))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    expected = backend.decode(ids, skip_special_tokens=skip)
    if kind == "byte_level" or "\ufffd" not in expected:
        assert tokenizer.decode(ids, skip_special_tokens=skip) == expected


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("kind", BYTE_EXACT)
def test_text_survives_a_round_trip(load: Load, kind: str, text: str) -> None:
    tokenizer = load(kind)
    ids = tokenizer.encode(text, add_special_tokens=False)
    expected = text if kind in ("byte_level", "ranks") else text.replace("▁", " ")
    assert tokenizer.decode(ids) == expected
    assert all(0 <= token < tokenizer.vocab_size for token in ids)


@pytest.mark.parametrize("kind", BYTE_EXACT)
def test_every_byte_has_a_token(load: Load, kind: str) -> None:
    tokenizer = load(kind)
    found = {tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= found


@pytest.mark.parametrize("kind", ["byte_level", "llama2", "sentencepiece", "end_of_word", "ranks"])
@pytest.mark.parametrize("token", [-1, 10**6, 2**40])
def test_an_unknown_id_adds_nothing(load: Load, kind: str, token: int) -> None:
    tokenizer = load(kind)
    word = tokenizer.encode("hello", add_special_tokens=False)
    assert tokenizer.token_bytes(token) == b""
    assert tokenizer.decode([*word, token]) == tokenizer.decode(word)


def test_an_added_token_is_its_own_text(directories: dict[str, Path], tmp_path: Path) -> None:
    """Its letters are no byte letters, though "é" is one of them."""
    backend = Backend.from_file(str(directories["byte_level"] / "tokenizer.json"))
    backend.add_tokens([AddedToken("é", normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("né")) == "né"


def test_named_tokens_and_special_ids(load: Load) -> None:
    tokenizer = load("byte_level")
    assert tokenizer.special_tokens_map == {"bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    assert tokenizer.eos_token_id is not None
    assert tokenizer.special_ids == {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert tokenizer.token_text(tokenizer.eos_token_id) == "<|im_end|>"
    assert tokenizer.decode([tokenizer.eos_token_id]) == ""
    assert tokenizer.decode([tokenizer.eos_token_id], skip_special_tokens=False) == "<|im_end|>"


def test_a_token_is_special_when_the_config_names_it(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    """Though the file calls it an ordinary one; a named token that does not exist stays out."""
    with_config(directories["byte_level"], tmp_path, eos_token="<tool_call>", pad_token="[PAD]")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eos_token_id in tokenizer.special_ids
    assert tokenizer.decode(tokenizer.encode("a<tool_call>b")) == "ab"
    assert len(tokenizer.encode("[PAD]")) > 1


def with_config(source: Path, directory: Path, **config: object) -> Path:
    """A copy of a tokenizer with other settings."""
    shutil.copytree(source, directory, dirs_exist_ok=True)
    old = json.loads((source / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**old, **config}))
    return directory


@pytest.mark.oracle
@pytest.mark.parametrize("bos", [True, False, None])
@pytest.mark.parametrize("eos", [True, False, None])
@pytest.mark.parametrize("kind", ["byte_level", "llama2"])
def test_encodes_as_transformers_whatever_the_flags(
    directories: dict[str, Path], tmp_path: Path, kind: str, bos: bool | None, eos: bool | None
) -> None:
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    flags = {"add_bos_token": bos, "add_eos_token": eos}
    given = {name: flag for name, flag in flags.items() if flag is not None}
    with_config(directories[kind], tmp_path, tokenizer_class="PreTrainedTokenizerFast", **given)
    oracle = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for text in ("hello 世界", "", "<|im_end|>hello</s>"):
        for add in (True, False):
            expected = oracle.encode(text, add_special_tokens=add)
            assert tokenizer.encode(text, add_special_tokens=add) == expected


def test_added_tokens_of_the_config_are_known(
    directories: dict[str, Path], tmp_path: Path, load: Load
) -> None:
    free = load("byte_level").vocab_size
    added = {str(free): {"content": "<think>", "special": False}}
    with_config(directories["byte_level"], tmp_path, added_tokens_decoder=added)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("<think>") == [free]
    assert tokenizer.vocab_size == free + 1
    assert tokenizer.decode([free]) == "<think>"


def test_an_added_token_at_another_id_is_refused(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    added = {"5000": {"content": "<think>", "special": False}}
    with_config(directories["byte_level"], tmp_path, added_tokens_decoder=added)
    with pytest.raises(CheckpointError, match=r"'<think>' at id 5000"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_a_lone_surrogate_is_refused(load: Load, kind: str) -> None:
    with pytest.raises(RequestError, match="not valid Unicode"):
        load(kind).encode("a\ud800b")


def test_a_directory_without_tokenizer_names_the_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.*tokenizer\.model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\x00", b"IQ== 0\nIg== 1\n"])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_a_truncated_tokenizer_is_named(
    directories: dict[str, Path], tmp_path: Path, kind: str, share: float
) -> None:
    name = "tokenizer.json" if kind == "byte_level" else "tokenizer.model"
    whole = (directories[kind] / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["[1]", "{", '{"add_bos_token": "yes"}', '{"added_tokens_decoder": {"x": {}}}']
    + ['{"added_tokens_decoder": {"1": {}}}', '{"chat_template": [{"name": "a"}]}']
    + ['{"chat_template": 3}', '{"additional_special_tokens": 3}', '{"bos_token": {}, "x": 1}'],
)
def test_a_damaged_config_is_named(
    directories: dict[str, Path], tmp_path: Path, content: str
) -> None:
    shutil.copytree(directories["byte_level"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text(content)
    if content == '{"bos_token": {}, "x": 1}':  # an empty value says nothing
        assert load_tokenizer(tmp_path).bos_token_id is None
        return
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)


def test_chat_templates_from_every_place(directories: dict[str, Path], tmp_path: Path) -> None:
    named = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    with_config(directories["byte_level"], tmp_path, chat_template=named)
    assert load_tokenizer(tmp_path).chat_templates == {"default": "A", "tool_use": "B"}
    (tmp_path / "chat_template.json").write_text('{"chat_template": "C"}')
    assert load_tokenizer(tmp_path).chat_template == "C"
    (tmp_path / "chat_template.jinja").write_text("D 你好", encoding="utf-8")
    assert load_tokenizer(tmp_path).chat_template == "D 你好"


# SentencePiece: transformers has no slow Llama tokenizer any more, but its base class.


def slow_tokenizer(directory: Path, legacy: bool):  # type: ignore[no-untyped-def]
    """The class that LlamaTokenizer was built on, with the tokens of the config."""
    pytest.importorskip("transformers", reason="the oracle is not installed")
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    config = json.loads((directory / "tokenizer_config.json").read_text())
    added = {
        int(token): AddedToken(**entry)
        for token, entry in config.get("added_tokens_decoder", {}).items()
    }
    names = {name: config[name] for name in ("bos_token", "eos_token", "unk_token")}
    names["extra_special_tokens"] = config.get("additional_special_tokens", [])
    return SentencePieceBackend(
        vocab_file=str(directory / "tokenizer.model"),
        legacy=legacy,
        added_tokens_decoder=added,
        **names,
    )


@pytest.mark.oracle
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("kind", ["sentencepiece", "sentencepiece_chat"])
def test_sentencepiece_encodes_as_transformers(
    directories: dict[str, Path], tmp_path: Path, kind: str, legacy: bool
) -> None:
    directory = with_config(directories[kind], tmp_path, legacy=legacy)
    oracle, tokenizer = slow_tokenizer(directory, legacy), load_tokenizer(directory)
    specials = st.sampled_from(["<s>", "</s>", "<|im_start|>", "<tool>", "hello", " the"])

    @settings(max_examples=200, deadline=None)
    @given(st.lists(TEXTS | specials, max_size=6).map("".join))
    def same(text: str) -> None:
        # Without `legacy`, LlamaTokenizer itself put the space in front of the text.
        asked = text if legacy else "▁" + text.replace("▁", " ")
        pieces = oracle.tokenize(asked) if text else []
        if not legacy and len(pieces) > 1 and pieces[0] == "▁" and pieces[1] in oracle_specials:
            pieces = pieces[1:]
        expected = [oracle.convert_tokens_to_ids(piece) for piece in pieces]
        assert tokenizer.encode(text, add_special_tokens=False) == expected

    oracle_specials = set(oracle.all_special_tokens)
    same()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["sentencepiece", "sentencepiece_chat"])
def test_sentencepiece_decodes_as_the_library(
    directories: dict[str, Path], load: Load, kind: str, data: st.DataObject
) -> None:
    from sentencepiece import SentencePieceProcessor

    library = SentencePieceProcessor(model_file=str(directories[kind] / "tokenizer.model"))
    tokenizer = load(kind)
    pieces = st.integers(3, library.get_piece_size() - 1)
    ids = data.draw(st.lists(pieces, max_size=20))
    expected = library.decode(ids)
    if "\ufffd" not in expected:
        assert tokenizer.decode(ids) == expected


def test_sentencepiece_adds_its_ends(directories: dict[str, Path], tmp_path: Path) -> None:
    directory = directories["sentencepiece"]
    plain = load_tokenizer(directory).encode("hello", add_special_tokens=False)
    assert load_tokenizer(directory).encode("hello") == [1, *plain]
    with_config(directory, tmp_path, add_bos_token=False, add_eos_token=True)
    assert load_tokenizer(tmp_path).encode("hello") == [*plain, 2]


def test_sentencepiece_needs_no_config(directories: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(directories["sentencepiece"] / "tokenizer.model", tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.special_tokens_map == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.encode("hello</s>")[-1] == 2


def test_importing_is_cheap() -> None:
    """No numpy, jinja2, llguidance, sentencepiece or transformers before they are needed."""
    heavy = ["numpy", "jinja2", "llguidance", "sentencepiece", "transformers", "torch"]
    modules = ["tokenizer", "detokenize", "stop_strings", "chat_template", "grammar", "output"]
    code = "import sys\n" + "".join(f"import quire.text.{name}\n" for name in modules)
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
