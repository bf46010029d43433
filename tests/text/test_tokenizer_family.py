"""Families with a tokenizer class of their own: specials, prefixes, templates, turn ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from quire.errors import RequestError
from quire.text.chat_template import load_chat_template
from quire.text.sentencepiece_proto import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, model_proto
from quire.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.conftest import ranks, sentencepiece

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "世界"},
]


def family(directory: Path, class_name: str, pieces: Sequence[str] = (), **config: object) -> Path:
    """A SentencePiece model with the letters of ASCII and some pieces, and a tokenizer class."""
    known = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    known |= dict.fromkeys(pieces, USER_DEFINED)
    known |= {f"<0x{byte:02X}>": BYTE for byte in range(256)}
    known |= {"▁": NORMAL, **{chr(code): NORMAL for code in range(33, 127)}, "▁hello": NORMAL}
    known |= {"▁h": NORMAL, "▁he": NORMAL, "▁hel": NORMAL, "▁hell": NORMAL}
    proto = model_proto(
        list(known),
        [-float(rank) for rank in range(len(known))],
        list(known.values()),
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        byte_fallback=True,
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(proto)
    config = {"tokenizer_class": class_name, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def library(directory: Path) -> Callable[[str], list[int]]:
    """What SentencePiece alone makes of a text."""
    encode: Callable[[str], list[int]]
    encode = SentencePieceProcessor(model_file=str(directory / "tokenizer.model")).encode
    return encode


def prompt(tokenizer: Tokenizer, messages: list[dict[str, str]] = CHAT, go_on: bool = True) -> str:
    return load_chat_template(tokenizer).render(messages, add_generation_prompt=go_on)


def test_chatglm_prefixes_a_text_as_its_class_does(tmp_path: Path) -> None:
    directory = family(tmp_path, "ChatGLMTokenizer")
    tokenizer, plain = load_tokenizer(directory), library(directory)
    size = SentencePieceProcessor(model_file=str(directory / "tokenizer.model")).get_piece_size()
    assert tokenizer.encode("hello 你好") == [size + 1, size + 3, *plain("hello 你好")]
    assert tokenizer.encode("[gMASK]sop hello", False) == [size + 1, size + 3, *plain(" hello")]
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    assert tokenizer.eos_token_id == 2


@pytest.mark.parametrize("text", ["sophisticated people", "sop", "eop", "[MASK", "a[gMASK] sop"])
def test_sop_is_a_token_only_behind_its_mask(tmp_path: Path, text: str) -> None:
    tokenizer = load_tokenizer(family(tmp_path, "ChatGLMTokenizer"))
    sop = tokenizer.encode("")[1]
    assert sop not in tokenizer.encode(text, add_special_tokens=False)
    declared = {str(sop): {"content": "sop", "special": True}}
    family(tmp_path, "ChatGLMTokenizer", added_tokens_decoder=declared)
    assert sop not in load_tokenizer(tmp_path).encode(text, add_special_tokens=False)


def test_chatglm3_makes_a_chat_as_its_class_does(tmp_path: Path) -> None:
    """Each message is a text of its own behind its role and a new line."""
    directory = family(tmp_path, "ChatGLMTokenizer")
    tokenizer, plain = load_tokenizer(directory), library(directory)
    names = ["[gMASK]", "<|system|>", "<|user|>", "<|assistant|>"]
    mask, *roles = (tokenizer.encode(name, False)[0] for name in names)
    role = dict(zip(("system", "user", "assistant"), roles, strict=True))
    expected = [mask, mask + 2]
    for message in CHAT:
        expected += [role[message["role"]], *plain("\n"), *plain(message["content"])]
    found = tokenizer.encode(prompt(tokenizer), add_special_tokens=False)
    assert found == [*expected, role["assistant"]]
    assert tokenizer.turn_end_ids == {role["user"], role["assistant"] + 1}


@pytest.mark.parametrize(
    "place", [{"name_or_path": "THUDM/chatglm2-6b"}, {"_name_or_path": "THUDM/codegeex2-6b"}]
)
def test_chatglm2_is_known_by_its_name(tmp_path: Path, place: dict[str, str]) -> None:
    directory = family(tmp_path, "ChatGLMTokenizer", **place)
    (directory / "config.json").write_text(json.dumps(place))
    tokenizer = load_tokenizer(directory)
    assert tokenizer.turn_end_ids == frozenset()
    assert prompt(tokenizer) == (
        "[gMASK]sopBe brief.\n\n[Round 1]\n\n问：hello\n\n答：hi\n\n[Round 2]\n\n问：世界\n\n答："
    )
    assert prompt(tokenizer, CHAT[1:3], go_on=False).endswith("答：hi")


@pytest.mark.parametrize(("user", "assistant"), [(106, 107), (102, 103)])
def test_baichuans_roles_are_two_pieces(tmp_path: Path, user: int, assistant: int) -> None:
    """Baichuan 2 calls them other names than Baichuan; they have the same ids."""
    pieces = [f"<filler_{number}>" for number in range(192)]
    pieces += [f"<reserved_{user}>", f"<reserved_{assistant}>"]
    directory = family(tmp_path, "BaichuanTokenizer", pieces, add_bos_token=False)
    tokenizer, plain = load_tokenizer(directory), library(directory)
    asked = prompt(tokenizer)
    assert asked == (
        f"Be brief.<reserved_{user}>hello<reserved_{assistant}>hi<reserved_{user}>世界"
        f"<reserved_{assistant}>"
    )
    expected = [*plain("Be brief."), 195, *plain("hello"), 196, *plain("hi"), 195, *plain("世界")]
    assert tokenizer.encode(asked) == [*expected, 196]
    assert {195, 196} <= tokenizer.special_ids


def test_internlm_ends_its_turns(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(family(tmp_path, "InternLMTokenizer", ["<eoh>", "<eoa>"]))
    assert prompt(tokenizer) == (
        "<s><|System|>:Be brief.\n<|User|>:hello<eoh>\n<|Bot|>:hi<eoa>\n"
        "<|User|>:世界<eoh>\n<|Bot|>:"
    )
    assert tokenizer.turn_end_ids == {4}
    assert tokenizer.encode("<s>hello<eoh>", False)[-1] == 3
    assert tokenizer.decode([4, 3]) == ""


@pytest.mark.parametrize("declared", [True, False])
def test_internlm2s_chat_tokens_took_the_place_of_unused_ones(
    tmp_path: Path, declared: bool
) -> None:
    pieces = [f"[UNUSED_TOKEN_{number}]" for number in range(141, 147)]
    names = {"7": "<|im_end|>", "8": "<|im_start|>"} if declared else {}
    added = {token: {"content": name, "special": True} for token, name in names.items()}
    family(tmp_path, "InternLM2Tokenizer", pieces, added_tokens_decoder=added)
    tokenizer = load_tokenizer(tmp_path)
    asked = prompt(tokenizer, CHAT[:2])
    assert asked == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer.encode(asked, add_special_tokens=False)
    assert (ids[:2], ids.count(8), ids.count(7)) == ([1, 8], 3, 2)
    assert tokenizer.turn_end_ids == {7}
    assert tokenizer.token_text(8) == "<|im_start|>"


def test_qwen_speaks_chat_ml(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ranks(tmp_path, "qwen.tiktoken", tokenizer_class="QWenTokenizer"))
    assert prompt(tokenizer, CHAT[1:2]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt(tokenizer).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


def test_glm_4s_chat(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ranks(tmp_path))
    assert prompt(tokenizer) == (
        "[gMASK]<sop><|system|>\nBe brief.<|user|>\nhello<|assistant|>\nhi"
        "<|user|>\n世界<|assistant|>"
    )


def test_kimis_chat(tmp_path: Path) -> None:
    ranks(tmp_path, "tiktoken.model", tokenizer_class="TikTokenTokenizer")
    assert prompt(load_tokenizer(tmp_path), CHAT[1:3]) == (
        "<|im_user|>user<|im_middle|>hello<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>hi<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>"
    )


def test_a_role_that_a_family_lacks_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(family(tmp_path, "InternLMTokenizer"))
    with pytest.raises(RequestError, match="no role tool"):
        prompt(tokenizer, [*CHAT, {"role": "tool", "content": "4"}])


def test_the_checkpoints_own_template_goes_first(tmp_path: Path) -> None:
    family(tmp_path, "InternLM2Tokenizer", chat_template="{{ messages[0].content }}")
    assert prompt(load_tokenizer(tmp_path)) == "Be brief."


def test_other_classes_stay_as_they_are(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(sentencepiece(tmp_path, tokenizer_class="LlamaTokenizer"))
    assert tokenizer.chat_template is None
    assert tokenizer.turn_end_ids == frozenset()
