"""The requests and answers of POST /v1/embeddings and POST /v1/rerank."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType

from quire.server.protocol.support import accepted, honoured, refused

__all__ = [
    "Embedding",
    "EmbeddingList",
    "EmbeddingRequest",
    "EmbeddingUsage",
    "RankedDocument",
    "RerankRequest",
    "RerankResult",
    "Reranking",
]


class EmbeddingRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Vectors of one or several texts."""

    input: Annotated[
        str | list[str | int | list[int]],
        honoured("a text, a list of texts, token ids, or a list of lists of token ids"),
    ]
    model: Annotated[str | None, honoured("a served name; default: the first")] = None
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        honoured("base64: little-endian float32; default float"),
    ] = None
    dimensions: Annotated[
        int | None, honoured("the first numbers only, where the model was trained for that")
    ] = None
    add_special_tokens: Annotated[bool | None, refused("the model needs them", True)] = None
    truncate_prompt_tokens: Annotated[Any, refused("shorten the texts yourself")] = None
    user: Annotated[str | None, accepted("for the client's own records")] = None


class Embedding(Struct, frozen=True):
    """One vector: numbers, or the base64 of their bytes."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(Struct, frozen=True):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True):
    """The vectors in the order of the inputs."""

    id: str
    created: int
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


class RerankRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Documents in the order of how well they match a query."""

    query: Annotated[str, honoured("the question")]
    documents: Annotated[list[str | dict[str, Any]], honoured('texts, or objects with a "text"')]
    model: Annotated[str | None, honoured("a served name; default: the first")] = None
    top_n: Annotated[int | None, honoured("how many to return; default: all")] = None
    return_documents: Annotated[bool | None, honoured("with their texts; default true")] = None
    instruction: Annotated[
        str | None, honoured("what counts as a match, for language models that score")
    ] = None
    max_chunks_per_doc: Annotated[Any, refused("a document is scored whole")] = None
    max_tokens_per_doc: Annotated[Any, refused("a document is scored whole")] = None
    truncate_prompt_tokens: Annotated[Any, refused("shorten the documents yourself")] = None
    rank_fields: Annotated[Any, refused("only the text is read")] = None
    user: Annotated[str | None, accepted("for the client's own records")] = None


class RankedDocument(Struct, frozen=True):
    """The text of a document."""

    text: str


class RerankResult(Struct, frozen=True):
    """index: the place of the document in the request."""

    index: int
    relevance_score: float
    document: RankedDocument | UnsetType = UNSET


class Reranking(Struct, frozen=True):
    """The best first; of equal scores the earlier document first."""

    id: str
    model: str
    usage: EmbeddingUsage
    results: list[RerankResult]
