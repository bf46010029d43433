"""Qwen2-VL computes what transformers computes of texts with no, one and several images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.backends.native.program import NativeExecutable
from quire.backends.reference.executable import ReferenceExecutable
from quire.control.plan import Chunk
from quire.llm import LLM
from quire.models.config_reader import read_json
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache
from quire.runtime.image_inputs import with_images
from quire.runtime.rope_tables import RopeTables
from quire.runtime.vision import LoadedVision, plan_vision
from quire.sampling_params import SamplingParams
from quire.vision.image import Image
from tests.models.computing import Float32, Loaded, Model, backend_of, distance, load
from tests.vision.checkpoints import CASES, IMAGE, SeeingCase, build, picture

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

TOLERANCE = 1e-4
BACKENDS = ("reference", "torch", "native-auto")
SIZES = ((40, 30), (21, 70), (90, 64))
WITH_IMAGES = {"no image": (), "one image": SIZES[:1], "two images": SIZES[1:]}


@dataclass(frozen=True)
class Oracle:
    """A checkpoint, its image processor, and the transformers model of both."""

    directory: Path
    loaded: Loaded
    model: Any
    process: Callable[..., Any]


@pytest.fixture(scope="module", params=CASES, ids=str)
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    case: SeeingCase = request.param
    directory = tmp_path_factory.mktemp(case.name)
    model = build(case, directory)
    processor = Qwen2VLImageProcessorPil(**read_json(directory / "preprocessor_config.json"))
    return Oracle(directory, load(directory), model, processor)


def vision_of(oracle: Oracle, backend: str) -> LoadedVision:
    """The tower on a backend; its cache is full of NaN, so that reading too far is seen."""
    from quire.backends.torch.devices import find_device
    from quire.backends.torch.executable import TorchExecutable

    weights, vision = oracle.loaded.weights, oracle.loaded.spec.vision
    assert vision is not None
    chosen = backend_of(backend)
    plan = plan_vision(vision, oracle.directory, lambda node: chosen.declines(node) is None, {})

    def bound(program: Any, cache: KvCache, ropes: RopeTables) -> Any:
        cache.arena[:] = 0xFF
        if backend == "reference":
            return ReferenceExecutable(program, weights, cache)
        if backend == "torch":
            return TorchExecutable(program, weights, cache, find_device("cpu"))
        return NativeExecutable(program, weights, cache, ropes.arrays, 2)

    return plan.bind(bound)


def pixels(oracle: Oracle, sizes: Any) -> dict[str, Any]:
    """What transformers' processor makes of pictures."""
    if not sizes:
        return {}
    return dict(oracle.process([picture(*size) for size in sizes], return_tensors="pt"))


def prompt(count: int) -> list[int]:
    """A text with places for images, the first of which is not at its beginning."""
    random = np.random.default_rng(count)
    tokens = random.integers(0, 256, 12).tolist()
    for _ in range(count):
        tokens += [259, IMAGE, 260, *random.integers(0, 256, 7).tolist()]
    return tokens


def oracle_logits(oracle: Oracle, tokens: list[int], seen: dict[str, Any]) -> Float32:
    kinds = torch.tensor([[int(token == IMAGE) for token in tokens]])
    with torch.no_grad():
        made = oracle.model(torch.tensor([tokens]), mm_token_type_ids=kinds, **seen)
    return np.asarray(made.logits[0].numpy())


def our_logits(oracle: Oracle, backend: str, sizes: Any, pieces: list[int]) -> Float32:
    """Logits of the prompt, computed in pieces of these sizes."""
    vision = vision_of(oracle, backend)
    images = [vision.reader.read(picture(*size)) for size in sizes]
    tokens, placed = vision.reader.place(prompt(len(sizes)), images)
    model = Model(oracle.loaded, backend)
    found, start = [], 0
    for size in pieces:
        part = tokens[start : start + size]
        if not part:
            break
        batch = Batch.single(part, start, model.block_table, model.ropes.arrays)
        if placed is not None:
            chunks = [Chunk("", start, part, (), False)]
            batch = with_images(batch, chunks, [(0, placed)], vision.encoder.encode)
        found.append(model.executable.logits(batch).copy())
        start += len(part)
    return np.concatenate(found)


@pytest.mark.parametrize("size", [*SIZES, (60, 3), (16, 16), (5, 4)])
def test_patches_are_equal(oracle: Oracle, size: tuple[int, int]) -> None:
    image = vision_of(oracle, "reference").reader.read(picture(*size))
    expected = pixels(oracle, [size])
    assert np.array_equal(image.patches, expected["pixel_values"].numpy())
    merge = image.merge
    assert [[1, image.rows * merge, image.columns * merge]] == expected["image_grid_thw"].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_images(oracle: Oracle, backend: str) -> None:
    vision = vision_of(oracle, backend)
    seen = pixels(oracle, SIZES)
    with torch.no_grad():
        made = oracle.model.model.visual(seen["pixel_values"], seen["image_grid_thw"])
    images = [vision.reader.read(picture(*size)) for size in SIZES]
    rows = np.concatenate([vision.encoder.encode(image) for image in images])
    assert distance(rows, made.pooler_output.numpy()) < TOLERANCE
    assert len({image.num_tokens for image in images}) > 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("images", WITH_IMAGES)
def test_logits(oracle: Oracle, images: str, backend: str) -> None:
    sizes = WITH_IMAGES[images]
    vision = vision_of(oracle, "reference")
    read = [vision.reader.read(picture(*size)) for size in sizes]
    tokens, _ = vision.reader.place(prompt(len(sizes)), read)
    expected = oracle_logits(oracle, tokens, pixels(oracle, sizes))
    whole = our_logits(oracle, backend, sizes, [64] * 9)
    assert distance(whole, expected) < TOLERANCE
    if backend != "reference":
        in_pieces = our_logits(oracle, backend, sizes, [15, 1, 13, 2] * 20)
        assert distance(in_pieces, expected) < TOLERANCE
    if sizes:
        blind = oracle_logits(oracle, tokens, {})
        assert distance(blind, expected) > 100 * TOLERANCE, "images must matter"


@pytest.mark.parametrize("mistake", ["patch_places", "token_places"])
def test_rows_and_columns_are_told_apart(
    oracle: Oracle, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared above must depend on where things stand in an image."""
    sizes, plain = WITH_IMAGES["two images"], getattr(Image, mistake)
    right = our_logits(oracle, "native-auto", sizes, [64] * 9)
    swapped = lambda image: np.ascontiguousarray(plain(image)[:, [0, 2, 1]])  # noqa: E731
    monkeypatch.setattr(Image, mistake, swapped)
    wrong = our_logits(oracle, "native-auto", sizes, [64] * 9)
    assert distance(wrong, right) > 10 * TOLERANCE


@pytest.mark.parametrize("backend", ["reference", "torch", "native"])
@pytest.mark.parametrize("images", WITH_IMAGES)
def test_greedy_tokens(oracle: Oracle, images: str, backend: str) -> None:
    """64 of them, from the API down: template, tokens of images, chunks, steps."""
    sizes = WITH_IMAGES[images]
    llm = LLM(
        str(oracle.directory),
        backend=backend,
        threads=1,
        max_num_batched_tokens=48,
        kv_cache_memory_bytes=2**22,
    )
    content: list[Any] = [{"type": "text", "text": "Look: "}]
    for size in sizes:
        content += [{"type": "image", "image": picture(*size)}, {"type": "text", "text": " and "}]
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    (output,) = llm.chat([{"role": "user", "content": content}], params, use_tqdm=False)
    tokens = output.prompt_token_ids
    kinds = torch.tensor([[int(token == IMAGE) for token in tokens]])
    oracle.model.generation_config.eos_token_id = None
    with torch.no_grad():
        expected = oracle.model.generate(
            torch.tensor([tokens]),
            mm_token_type_ids=kinds,
            max_new_tokens=64,
            do_sample=False,
            **pixels(oracle, sizes),
        )
    assert list(output.outputs[0].token_ids) == expected[0, len(tokens) :].tolist()
    assert len(set(output.outputs[0].token_ids)) > 5
