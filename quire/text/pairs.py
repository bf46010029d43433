"""Puts a query and a document into one input, for models that say how well they match."""

from __future__ import annotations

from quire.errors import ModelError, RequestError
from quire.text.hf_tokenizer import HFTokenizer
from quire.text.tokenizer import Tokenizer

__all__ = ["INSTRUCTION", "encode_judgement", "encode_pair", "single_token"]

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

# The form that Qwen3-Reranker was trained with.
JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def encode_pair(tokenizer: Tokenizer, query: str, document: str) -> list[int]:
    """Both texts with the special tokens that the tokenizer puts around a pair.

    Raises ModelError for a tokenizer that has no rule for pairs, as only a tokenizer.json has one.
    """
    if not isinstance(tokenizer, HFTokenizer):
        raise ModelError("scoring pairs needs a tokenizer.json; convert the tokenizer to one")
    return tokenizer.encode_pair(query, document)


def encode_judgement(
    tokenizer: Tokenizer, query: str, document: str, instruction: str | None = None
) -> list[int]:
    """The question to a language model whether the document answers the query: yes or no."""
    chosen = INSTRUCTION if instruction is None else instruction
    text = JUDGE.format(instruction=chosen, query=query, document=document)
    return tokenizer.encode(text, add_special_tokens=False)


def single_token(tokenizer: Tokenizer, text: str) -> int:
    """The one token of a text.  Raises RequestError where it has several."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise RequestError(f"this model cannot score: {text!r} is {len(ids)} tokens, not one")
    return ids[0]
