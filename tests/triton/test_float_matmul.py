"""Products with float weights, and mixtures of experts, are the reference ops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.backends.torch.matrix import FloatMatrix, Matrix, as_matrix
from quire.backends.torch.triton.expert_tiles import expert_tiles
from quire.backends.torch.triton.experts import mixture_of_experts, mixtures_of
from quire.backends.torch.triton.float_matmul import float_matmul
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile
from quire.ops.activation import GatedActivation
from quire.ops.batch import Batch
from quire.ops.experts import Expert, MixtureOfExperts
from quire.ops.linear import LinearPart
from quire.ops.op import Environment
from quire.quant.packing import pack_matrix
from tests.engine import packed_layouts as layouts

SHAPES = ((32, 64), (32, 64), (64, 32))
STEPS = {torch.float32: 2**-21, torch.float16: 2**-20, torch.bfloat16: 2**-20}
NONE = np.zeros(0, np.int32)


def small(rows: int, columns: int) -> Launcher:
    names = {
        (kernel, size): Tile(rows, columns)
        for kernel in ("float_matmul", "code_matmul")
        for size in ("few", "some", "many")
    }
    return Launcher("sm_80", {**names, ("add_segments", ""): Tile(1, 32)})


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(x).to(dtype)


@pytest.mark.parametrize("dtype", STEPS)
@pytest.mark.parametrize(("rows", "outputs", "columns"), [(1, 40, 96), (3, 33, 130), (18, 70, 64)])
def test_is_the_product(rows: int, outputs: int, columns: int, dtype: torch.dtype) -> None:
    x, weight = numbers(rows, columns, dtype=dtype), numbers(outputs, columns, seed=1, dtype=dtype)
    bias, out = numbers(outputs, seed=2), torch.empty(rows, outputs)
    float_matmul(small(16, 32), x, weight, out, bias)
    expected = x.double() @ weight.double().T + bias
    bound = STEPS[dtype] * (x.double().abs() @ weight.double().abs().T + 1)
    assert ((out - expected).abs() <= bound).all()


def test_bits_hang_on_nothing_else() -> None:
    x, weight = numbers(20, 130, dtype=torch.float16), numbers(40, 130, seed=1, dtype=torch.float16)
    outs = [torch.empty(20, 40), torch.empty(20, 40), torch.empty(1, 40), torch.empty(20, 40)]
    float_matmul(small(16, 16), x, weight, outs[0])
    float_matmul(small(32, 64), x, weight, outs[1])
    float_matmul(small(16, 32), x[11:12], weight, outs[2])
    x[3] = float("nan")
    float_matmul(small(16, 32), x, weight, outs[3])
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[2][0], outs[0][11])
    assert torch.equal(outs[3][4:], outs[0][4:]) and outs[3][3].isnan().all()


def test_tiles_have_every_pair_once() -> None:
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(np.sort(rng.integers(0, 3, (30, 2)) * 4 + [0, 1], axis=1))
    found = expert_tiles(small(16, 32), "float_matmul", ids, 12)
    seen = []
    for expert, first, end in found.tiles.tolist():
        pairs = found.order[first : min(first + 16, end)].tolist() if expert >= 0 else []
        assert all(ids.reshape(-1)[pair] == expert for pair in pairs)
        seen += pairs
    assert sorted(seen) == list(range(60))


def coded(weights: np.ndarray, kind: tuple[str, int, int]) -> tuple[Matrix, np.ndarray]:
    """A matrix of codes, and its numbers."""
    packed = pack_matrix(layouts.rounded("w", weights, *kind))
    assert packed is not None
    return as_matrix(packed, torch.float32, torch.device("cpu")), packed.float32()


@pytest.mark.parametrize(
    ("rows", "top_k", "scales_inputs", "kind"),
    [
        (1, 2, False, None),
        (20, 3, True, None),
        (20, 3, False, ("mxfp4", 4, 32)),
        (1, 2, True, ("minimums", 4, 32)),
        (20, 3, False, "both"),
    ],
)
def test_mixture(
    rows: int, top_k: int, scales_inputs: bool, kind: tuple[str, int, int] | str | None
) -> None:
    """Experts that nobody chose, and one that everybody did; of numbers, of codes, of both."""
    experts, width, hidden = 6, 64, 32
    rng = np.random.default_rng(0)
    others = [rng.permutation(np.arange(1, experts - 1))[: top_k - 1] for _ in range(rows)]
    ids = np.sort(np.array([[0, *each] for each in others]), axis=1)
    routed = rng.random((rows, top_k)).astype(np.float32)
    parts = ("gate", "up", "down")
    shapes = {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}
    stacks = {p: numbers(experts, *shapes[p], seed=i).numpy() for i, p in enumerate(parts)}
    matrices: dict[str, list[Matrix]] = {}
    for p in parts:
        if kind is None:
            matrices[p] = [FloatMatrix(torch.from_numpy(each)) for each in stacks[p]]
        else:
            found = [
                coded(each, ("mxfp4", 4, 32) if kind == "both" else kind) for each in stacks[p]
            ]
            if kind == "both":
                found[::2] = [(FloatMatrix(torch.from_numpy(x)), x) for x in stacks[p][::2]]
            matrices[p], stacks[p] = [each for each, _ in found], np.stack([x for _, x in found])
    biases = {p: numbers(experts, shapes[p][0], seed=i + 9).numpy() for i, p in enumerate(parts)}
    weights = {f"{p}{e}": stacks[p][e] for p in parts for e in range(experts)}
    weights |= {f"{p}{e}.b": biases[p][e] for p in parts for e in range(experts)}
    op = MixtureOfExperts(
        tuple(
            Expert(*(LinearPart(f"{p}{e}", shapes[p][0], f"{p}{e}.b") for p in parts))
            for e in range(experts)
        ),
        top_k, GatedActivation("silu"), scales_inputs,
    )  # fmt: skip
    env = Environment(Batch(NONE, NONE, NONE, NONE, NONE, NONE, ()), None, weights)  # type: ignore[arg-type]
    x = numbers(rows, width, seed=5)
    expected = op.reference(env, x.numpy(), np.concatenate([ids, routed], 1, dtype=np.float32))[0]
    mine = mixtures_of(
        [[(matrices[p][e], torch.from_numpy(biases[p][e])) for p in parts] for e in range(experts)]
    )
    assert len(mine) == (2 if kind == "both" else 1)
    out, alone = torch.empty(rows, width), torch.empty(1, width)
    given = torch.from_numpy(ids), torch.from_numpy(routed)
    rest = (mine, op.activation)
    mixture_of_experts(small(16, 32), x, *given, *rest, out, scales_inputs=scales_inputs)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-4, atol=5e-4)  # of hundreds
    one = slice(rows - 1, rows)
    given = given[0][one], given[1][one]
    mixture_of_experts(small(16, 32), x[one], *given, *rest, alone, scales_inputs=scales_inputs)
    assert torch.equal(alone[0], out[-1])


def test_experts_of_other_ranks_add_nothing() -> None:
    """Each rank has half of them, and both together what one with all of them has."""
    parts = [
        [(FloatMatrix(numbers(*shape, seed=3 * e + i)), None) for i, shape in enumerate(SHAPES)]
        for e in range(6)
    ]
    ids = torch.tensor([[0, 2], [1, 5], [3, 4]])
    x, weights, outs = numbers(3, 64), torch.rand(3, 2), torch.full((3, 3, 64), torch.nan)
    for out, first, some in zip(outs, (0, 0, 3), (parts, parts[:3], parts[3:]), strict=True):
        mixture_of_experts(
            small(16, 32), x, ids - first, weights, mixtures_of(some), GatedActivation("silu"), out,
            is_part=len(some) < 6,
        )  # fmt: skip
    torch.testing.assert_close(outs[1] + outs[2], outs[0])
    assert torch.equal(outs[1, 0], outs[0, 0]) and not outs[1, 2].any() and outs[1, 1].any()


def test_experts_of_one_make_stand_together() -> None:
    narrow, wide = (FloatMatrix(torch.zeros(4, 8, dtype=t)) for t in (torch.float16, torch.float32))
    bias = torch.zeros(4)
    same, other, biased = [(narrow, None)] * 3, [(wide, None)] * 3, [(narrow, bias)] * 3
    assert [each.members for each in mixtures_of([same, same])] == [None]
    found = [each.members for each in mixtures_of([same, other, biased, same])]
    assert [each.tolist() for each in found if each is not None] == [
        [True, False, False, True], [False, True, False, False], [False, False, True, False],
    ]  # fmt: skip
