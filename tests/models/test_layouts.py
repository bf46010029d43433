"""Families whose checkpoints stand in layouts of their own compute what transformers computes.

The cases, and how the oracle's weights come into a family's layout, stand in cases_layouts.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from quire.models.attention_rules import alibi_slopes
from quire.models.rope import RopeScaling
from quire.models.spec import Attention, ModelSpec
from quire.weights.checkpoint import open_checkpoint
from quire.weights.tensor import RawTensor
from tests.models.cases_layouts import BY_NAME, CASES, QKV, Case, baichuan2
from tests.models.computing import BACKENDS, Float32, Loaded, Model, distance, load, need
from tests.models.greedy import assert_greedy, kept_rotation

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

TOLERANCE = 1e-4
SIGHT = 10 * TOLERANCE


# --- oracles


@dataclass(frozen=True)
class Oracle:
    """A checkpoint in the family's layout, and what the other class says of it."""

    case: Case
    directory: Path
    loaded: Loaded
    tokens: list[int]
    logits: Float32
    model: Any


def random_model(case: Case) -> Any:
    """The class with every parameter redrawn; head rows of length one if they are to be."""
    torch.manual_seed(len(case.name))
    config = transformers.AutoConfig.for_model(case.model_type, **case.fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model = model.float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.1 if "norm" in name else 0.3)
            else:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
        if case.write is baichuan2:
            model.lm_head.weight.copy_(torch.nn.functional.normalize(model.lm_head.weight))
    return model


def expected(case: Case, model: Any, tokens: list[int]) -> Float32:
    count, more = len(tokens), {}
    if case.mask is not None:
        mask = case.mask(count) + np.triu(np.full((count, count), -1e9, np.float32), 1)
        more["attention_mask"] = torch.tensor(mask)[None]
        more["position_ids"] = torch.zeros(1, count, dtype=torch.long)
    hooks = []
    if case.factors is not None:  # rotation is linear: queries may be scaled before it
        factors = torch.tensor(case.factors(count))[:, None]
        hooks = [
            layer.self_attn.q_proj.register_forward_hook(lambda _m, _i, out: out * factors)
            for layer in model.model.layers
        ]
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), **more).logits[0].numpy()
    for hook in hooks:
        hook.remove()
    return np.asarray(logits, np.float32)


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Oracle]:
    built: dict[str, Oracle] = {}

    def oracle(case: Case) -> Oracle:
        if case.name not in built:
            directory, model = tmp_path_factory.mktemp(case.name), random_model(case)
            tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
            config = {**case.config, **case.extra, "torch_dtype": "float32"}
            written = case.write(tensors, config)
            safetensors.numpy.save_file(
                {name: np.ascontiguousarray(each) for name, each in written.items()},
                directory / "model.safetensors",
            )
            (directory / "config.json").write_text(json.dumps(config))
            random = np.random.default_rng(0)
            tokens = random.integers(3, case.fields["vocab_size"], case.length).tolist()
            logits = expected(case, model, tokens)
            built[case.name] = Oracle(case, directory, load(directory), tokens, logits, model)
        return built[case.name]

    return oracle


Oracles = Callable[[Case], Oracle]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.mark.parametrize("backend", BACKENDS)
@each_case
def test_logits(case: Case, backend: str, oracles: Oracles) -> None:
    need(backend)
    oracle = oracles(case)
    found = Model(oracle.loaded, backend).logits(oracle.tokens)
    assert distance(found, oracle.logits) < TOLERANCE


@each_case
def test_64_greedy_tokens(case: Case, oracles: Oracles) -> None:
    oracle = oracles(case)

    def read(prompt: list[int], output: list[int]) -> Float32:
        with kept_rotation(oracle.model, lambda: expected(case, oracle.model, prompt)):
            return expected(case, oracle.model, prompt + output)

    assert_greedy(Model(oracle.loaded, "native-auto"), oracle.model, case.length, read)


@each_case
def test_pieces_give_the_same_bits(case: Case, oracles: Oracles) -> None:
    oracle = oracles(case)
    for backend in ("native-portable", "reference"):
        whole = Model(oracle.loaded, backend).logits(oracle.tokens)
        parts = Model(oracle.loaded, backend).logits(oracle.tokens, [7, 1, 1, 16, 15])
        if backend == "reference":
            assert distance(parts, whole) < TOLERANCE
        else:
            np.testing.assert_array_equal(parts, whole)


# --- sight


def without_biases(oracle: Oracle) -> Loaded:
    weights = {
        name: replace(weight, data=np.zeros_like(weight.data)) if name.endswith("bias") else weight
        for name, weight in oracle.loaded.weights.items()
    }
    return Loaded(oracle.loaded.spec, weights)


def swapped(one: str, other: str) -> Callable[[Oracle], Loaded]:
    def mistake(oracle: Oracle) -> Loaded:
        found = oracle.loaded.weights
        names = {n: n.replace(one, "!").replace(other, one).replace("!", other) for n in found}
        return Loaded(oracle.loaded.spec, {n: found[names[n]] for n in found})

    return mistake


def contiguous(oracle: Oracle) -> Loaded:
    """The rows of q, k and v read one part after the other."""
    checkpoint, weights = open_checkpoint(oracle.directory), dict(oracle.loaded.weights)
    for layer in range(2):
        whole, at = checkpoint.tensor(f"model.layers.{layer}.attention.wqkv.weight").data, 0
        for part in QKV:
            name = f"model.layers.{layer}.{part}.weight"
            rows = weights[name].shape[0]
            data = whole[at : at + rows]
            weights[name], at = RawTensor(name, "F32", data.shape, data), at + rows
    return Loaded(oracle.loaded.spec, weights)


def plain_head(oracle: Oracle) -> Loaded:
    head = open_checkpoint(oracle.directory).tensor("lm_head.weight")
    return Loaded(oracle.loaded.spec, {**oracle.loaded.weights, "lm_head.weight": head})


def attention(**changes: Any) -> Callable[[Oracle], Loaded]:
    return changed(lambda a: replace(a, **changes))


def rotation(**changes: Any) -> Callable[[Oracle], Loaded]:
    return changed(lambda a: replace(a, rope=replace(a.rope, **changes)))


def changed(change: Callable[[Attention], Attention]) -> Callable[[Oracle], Loaded]:
    def mistake(oracle: Oracle) -> Loaded:
        spec: ModelSpec = oracle.loaded.spec
        blocks = tuple(replace(each, attention=change(each.attention)) for each in spec.blocks)
        return Loaded(replace(spec, blocks=blocks), oracle.loaded.weights)

    return mistake


MISTAKES: tuple[tuple[str, str, Callable[[Oracle], Loaded]], ...] = (
    ("internlm-bias", "no biases", without_biases),
    ("internlm2", "q, k and v not grouped", contiguous),
    ("internlm2", "w1 and w3 swapped", swapped("gate_proj", "up_proj")),
    ("internlm2-bias-theta", "no biases", without_biases),
    ("internlm3-qkv-bias", "no biases", without_biases),
    ("baichuan-7b", "q and k swapped", swapped("q_proj", "k_proj")),
    ("baichuan2-7b", "a plain head", plain_head),
    ("baichuan-13b", "no slopes", attention(slopes=())),
    ("baichuan-13b-6-heads", "slopes of 8 heads", attention(slopes=alibi_slopes(8)[:6])),
    ("baichuan2-13b", "a plain head", plain_head),
    ("chatglm3", "all dims turned", rotation(dims=16)),
    ("chatglm3", "halves turned", rotation(pairing="half")),
    ("chatglm3", "no biases", without_biases),
    ("glm-4", "no ratio", rotation(theta=1e4)),
    ("qwen", "w1 and w2 swapped", swapped("gate_proj", "up_proj")),
    ("qwen", "no biases", without_biases),
    ("qwen-log-n", "no log n", attention(query_rule=None)),
    ("qwen-ntk", "no stretched base", rotation(scaling=RopeScaling())),
)


@pytest.mark.parametrize("name, what, mistake", MISTAKES, ids=lambda each: str(each)[:24])
def test_the_oracle_sees_mistakes(
    name: str, what: str, mistake: Callable[[Oracle], Loaded], oracles: Oracles
) -> None:
    oracle = oracles(BY_NAME[name])
    assert distance(Model(mistake(oracle)).logits(oracle.tokens), oracle.logits) > SIGHT, what
