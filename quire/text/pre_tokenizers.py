"""How pre-tokenizers cut text into words before byte-level BPE merges, under GGUF's names.

The patterns are those of the models' own tokenizer.json files, under the name that `pre` in a GGUF
file has for them.  A text is cut by each pattern in turn: its matches stand alone, and so does
what is between them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

__all__ = ["GLM_4_WORDS", "KIMI_WORDS", "PRE_TOKENIZERS", "QWEN_WORDS", "PreTokenizer"]


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """Patterns, and what belongs to the tokenizers that have them.

    nfc: text is composed (Unicode NFC) first.  ignore_merges: a word that is a token stays whole.
    add_bos: a text begins with the bos token unless the file says otherwise.
    """

    patterns: Sequence[str]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False

    def apply_to(self, backend: tokenizers.Tokenizer) -> None:
        """Make a tokenizer cut text this way and spell it in byte letters."""
        splits = [pre_tokenizers.Split(Regex(each), "isolated") for each in self.patterns]
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, letters])
        if self.nfc:
            backend.normalizer = normalizers.NFC()


GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(digits: str, letters: str = r"\p{L}") -> str:
    """Words with the character in front of them, numbers, runs of symbols, and white space."""
    symbols = rf" ?[^\s{letters.strip('[]')}\p{{N}}]+[\r\n]*"
    return rf"{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}|{symbols}|{SPACES}"


def _cased_words(ending: str, digits: str) -> str:
    """As above, but a word ends where a capital follows a small letter."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    front, symbols = r"[^\r\n\p{L}\p{N}]?", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
    words = rf"{front}{upper}*{lower}+{ending}|{front}{upper}+{lower}*{ending}"
    return rf"{words}|{digits}|{symbols}|{SPACES}"


def _kimi_words() -> str:
    """Runs of Han characters, then as above with the other letters only."""
    upper = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
    lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
    front = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{front}{upper}*{lower}+{ENDINGS}?|{front}{upper}+{lower}*{ENDINGS}?"
    return rf"\p{{Han}}+|{words}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"


# Letters of alphabets that have capitals, as Unicode 10 knew them; in hexadecimal.
DEEPSEEK_LETTERS = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F "
    "386 388-38A 38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD "
    "1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 "
    "1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 "
    "2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 "
    "2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 "
    "A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 "
    "104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
DEEPSEEK_MARKS = "!-/:-~！-／：-～‘-‟　-。"
DEEPSEEK_EAST_ASIAN = "[一-龥ࠀ-一가-퟿]+"
DEEPSEEK_V3_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + SPACES
)


def _characters(ranges: str) -> str:
    """The inside of a character class for ranges of hexadecimal numbers."""
    return re.sub(r"[0-9A-F]+", r"\\x{\g<0>}", ranges).replace(" ", "")


_GPT_2 = PreTokenizer((GPT_2,))
_SINGLE_DIGITS = PreTokenizer((r"\p{N}", GPT_2))
_LLAMA_3 = PreTokenizer((_words(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_QWEN_2 = PreTokenizer((_words(r"\p{N}"),), nfc=True)
_GLM_4 = PreTokenizer((_words(r"\p{N}{1,3}"),), ignore_merges=True)
QWEN_WORDS, GLM_4_WORDS = _QWEN_2, _GLM_4
_GPT_4O = PreTokenizer((_cased_words(ENDINGS + "?", r"\p{N}{1,3}"),))
KIMI_WORDS = PreTokenizer((_kimi_words(),))
_DEEPSEEK_V3 = PreTokenizer((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3_WORDS))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "phi-2", "exaone4"), _GPT_2),
    **dict.fromkeys(("olmo", "mpt"), replace(_GPT_2, nfc=True)),
    **dict.fromkeys(("starcoder", "refact", "smollm", "codeshell", "exaone"), _SINGLE_DIGITS),
    "command-r": replace(_SINGLE_DIGITS, nfc=True),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "pixtral", "falcon3", "lfm2"), _LLAMA_3),
    "qwen2": _QWEN_2,
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "hunyuan"), replace(_QWEN_2, nfc=False)),
    "qwen35": PreTokenizer((_words(r"\p{N}", r"[\p{L}\p{M}]"),)),
    **dict.fromkeys(("glm4", "chatglm-bpe"), _GLM_4),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT_4O),
    "tekken": PreTokenizer((_cased_words("", r"\p{N}"),), ignore_merges=True, add_bos=True),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_characters(DEEPSEEK_LETTERS)}]+",
            rf"\s?[{DEEPSEEK_MARKS}]+",
            r"\s+$",
            DEEPSEEK_EAST_ASIAN,
            r"\p{N}",
        )
    ),
    "deepseek-coder": PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_EAST_ASIAN, r"\p{N}")
    ),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), _DEEPSEEK_V3),
    "bloom": PreTokenizer((r" ?[^(\s|[.,!?…。，、।۔،])]+",)),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT_2, "[0-9][0-9][0-9]")),
    "seed-coder": PreTokenizer(
        (
            rf"{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+"
            rf"|{SPACES}",
        )
    ),
}
"""Every name that is read.  Source: the tokenizer.json of a model for which the name is used."""
