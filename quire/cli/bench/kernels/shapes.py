"""The distinct shapes of a model's ops, as they stand in its Program: projections merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.graph.program import StepLimits, compile_program
from quire.models.spec import AttentionPart, ModelSpec
from quire.ops.activation import GatedActivation
from quire.ops.experts import MixtureOfExperts
from quire.ops.linear import MatMul
from quire.runtime.kv_layout import cache_shape

__all__ = ["QWEN2_5_0_5B", "ExpertShape", "KernelShapes", "LinearShape"]

QWEN2_5_0_5B: Mapping[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
"""What of its config.json a spec is made of."""


@dataclass(frozen=True, slots=True)
class LinearShape:
    """Matrices [out, inputs] that one op multiplies with; in_head: only with rows of logits."""

    inputs: int
    outputs: tuple[int, ...]
    in_head: bool = False

    def __str__(self) -> str:
        return f"{self.inputs} x {'+'.join(map(str, self.outputs))}"


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """`count` experts with hidden rows of a width, of which a token meets top_k."""

    width: int
    hidden: int
    count: int
    top_k: int

    def __str__(self) -> str:
        return f"{self.top_k} of {self.count}, {self.width} x {self.hidden}"


@dataclass(frozen=True, slots=True)
class KernelShapes:
    """Everything that decides how long a model's kernels take, each shape once.

    width, gated_widths: of the rows that the norms and the gated activations work on.
    """

    linears: tuple[LinearShape, ...]
    experts: tuple[ExpertShape, ...]
    attentions: tuple[AttentionPart, ...]
    width: int
    gated_widths: tuple[int, ...]
    vocab_size: int

    @classmethod
    def of(cls, spec: ModelSpec) -> KernelShapes:
        """The shapes of a model."""
        program = compile_program(spec, StepLimits(1, 1), lambda _: True)
        linears = [
            LinearShape(node.inputs[0].width, tuple(part.out for part in node.op.parts), in_head)
            for in_head, nodes in ((False, program.body), (True, program.head))
            for node in nodes
            if isinstance(node.op, MatMul)
        ]
        experts = [
            ExpertShape(
                node.inputs[0].width,
                node.op.experts[0].gate.out,
                len(node.op.experts),
                node.op.top_k,
            )
            for node in program.body
            if isinstance(node.op, MixtureOfExperts)
        ]
        attentions = {(a.heads, cache_shape(a), a.reach): a for a in spec.attentions}
        gated = [node for node in program.body if isinstance(node.op, GatedActivation)]
        return cls(
            tuple(dict.fromkeys(linears)),
            tuple(dict.fromkeys(experts)),
            tuple(attentions.values()),
            spec.width,
            tuple(dict.fromkeys(node.outputs[0].width for node in gated)),
            spec.vocab_size,
        )
