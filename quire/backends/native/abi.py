"""The constants and structs of csrc/include/quire.h, which says what each of them means.

`__slots__` make it an error to set a field that a struct does not have.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int8, c_int32, c_int64, c_void_p
from typing import Any, ClassVar

import numpy as np

__all__ = [
    "ISA_NAMES",
    "SAMPLE_RESULT",
    "SAMPLE_ROW",
    "Experts",
    "Matrix",
    "Op",
    "Program",
    "Recurrence",
    "Router",
    "Step",
    "Tensor",
    "Tuning",
]

ABI_VERSION = 12
MAX_PARTS = 4

F32, F16, BF16, INT4, INT8, TABLE4, FLOAT8 = range(7)
NUM_DTYPES = 7
KV_INT8, KV_FLOAT8, KV_INT4 = 3, 4, 5  # beside the first three
(
    PORTABLE, AVX2, AVX512, AVX512VNNI, AVX512BF16, NEON, NEON_DOTPROD, NEON_I8MM, AMX,
) = range(9)  # fmt: skip
SILU, GELU, GELU_TANH, QUICK_GELU, RELU, RELU_SQUARED, TANH, LOGISTIC, CLAMPED_SWIGLU = range(9)
RMS, LAYER = range(2)
SOFTMAX, SIGMOID, SPARSEMIXER = range(3)
GROUP_MAX, GROUP_TOP2_SUM = range(2)
DELTA_RULE, SELECTIVE_SCAN = range(2)
(
    OP_EMBEDDING,
    OP_NORM,
    OP_ADD_NORM,
    OP_ADD,
    OP_LINEAR,
    OP_ROPE_ANGLES,
    OP_ROPE,
    OP_KV_WRITE,
    OP_ROPE_KV_WRITE,
    OP_ATTENTION,
    OP_GATED,
    OP_SELECT_ROWS,
    OP_QUANTIZE,
    OP_ACTIVATE,
    OP_SCALE_LOGITS,
    OP_ROUTE_TOKENS,
    OP_EXPERTS,
    OP_GATE_ROWS,
    OP_CONVOLUTION,
    OP_RECURRENCE,
) = range(20)
OP_LATENT_WRITE, OP_LATENT_QUERIES, OP_LATENT_ATTENTION, OP_LATENT_VALUES = range(40, 44)

ISA_NAMES = (
    "portable", "avx2", "avx512", "avx512vnni", "avx512bf16",
    "neon", "neon_dotprod", "neon_i8mm", "amx",
)  # fmt: skip


class Matrix(ctypes.Structure):
    """Weights as they stand in memory: row-major floats or packed integers, 4-byte aligned."""

    __slots__ = ()
    _fields_: ClassVar[Any] = [
        ("data", c_void_p),
        ("rows", c_int64),
        ("cols", c_int64),
        ("dtype", c_int32),
        ("group_size", c_int32),
        ("has_zero_points", c_int32),
        ("has_minimums", c_int32),
        ("exponent", c_int32),
        ("table", c_int8 * 16),
    ]


class Tensor(ctypes.Structure):
    """A column range of a buffer in the activation arena; offset and stride count floats."""

    __slots__ = ()
    _fields_: ClassVar[Any] = [("offset", c_int64), ("stride", c_int32), ("cols", c_int32)]


class Router(ctypes.Structure):
    """How experts are chosen."""

    __slots__ = ()
    _fields_: ClassVar[Any] = [
        ("bias", c_void_p),
        ("num_experts", c_int32),
        ("top_k", c_int32),
        ("scoring", c_int32),
        ("normalises", c_int32),
        ("num_groups", c_int32),
        ("top_groups", c_int32),
        ("group_score", c_int32),
        ("reserved", c_int32),
        ("scale", c_float),
        ("least_sum", c_float),
        ("jitter", c_float),
        ("reserved_float", c_float),
    ]


class Experts(ctypes.Structure):
    """The experts of a layer."""

    __slots__ = ()
    _fields_: ClassVar[Any] = [
        ("matrices", POINTER(Matrix)),
        ("biases", POINTER(c_void_p)),
        ("usage", c_void_p),
        ("num_experts", c_int32),
        ("top_k", c_int32),
        ("hidden_dtype", c_int32),
        ("scales_inputs", c_int32),
        ("first", c_int32),
        ("num_routed", c_int32),
    ]


class Recurrence(ctypes.Structure):
    """What the heads of a recurrent layer do with their states."""

    __slots__ = ()
    _fields_: ClassVar[Any] = [
        ("state", c_int64),
        ("decay_log", c_void_p),
        ("time_bias", c_void_p),
        ("skip", c_void_p),
        ("kind", c_int32),
        ("heads", c_int32),
        ("key_heads", c_int32),
        ("key_dim", c_int32),
        ("value_dim", c_int32),
        ("taps", c_int32),
        ("least_step", c_float),
        ("most_step", c_float),
    ]


class Op(ctypes.Structure):
    """One op record of a Program; kept: whatever has to live as long as it."""

    __slots__ = ("kept",)
    _fields_: ClassVar[Any] = [
        ("kind", c_int32),
        ("layer", c_int32),
        ("inputs", Tensor * 4),
        ("outputs", Tensor * 2),
        ("parts", Matrix * MAX_PARTS),
        ("vectors", c_void_p * MAX_PARTS),
        ("order", c_void_p),
        ("num_parts", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("rope_dims", c_int32),
        ("pairing", c_int32),
        ("window", c_int32),
        ("activation", c_int32),
        ("eps", c_float),
        ("scale", c_float),
        ("row_dtype", c_int32),
        ("chunk", c_int32),
        ("query_rule", c_int32),
        ("query_length", c_int32),
        ("query_offset", c_int32),
        ("query_factor", c_float),
        ("cap", c_float),
        ("norm", c_int32),
        ("bidirectional", c_int32),
        ("index", c_int32),
        ("index_offset", c_int32),
        ("reserved", c_int32),
        ("router", POINTER(Router)),
        ("experts", POINTER(Experts)),
        ("recurrence", POINTER(Recurrence)),
    ]


class Tuning(ctypes.Structure):
    """How products with matrices of one dtype are cut; see quire.backends.native.tuning."""

    __slots__ = ()
    _fields_: ClassVar[Any] = [
        ("tile_rows", c_int32),
        ("ahead_rows", c_int32),
        ("ahead_bytes", c_int32),
        ("block_bytes", c_int32),
        ("chunk_bytes", c_int32),
    ]


class Program(ctypes.Structure):
    """A Program bound to its memory."""

    __slots__ = ()
    _fields_: ClassVar[Any] = [
        ("body", POINTER(Op)),
        ("head", POINTER(Op)),
        ("num_body", c_int32),
        ("num_head", c_int32),
        ("arena", c_void_p),
        ("kv", c_void_p),
        ("kv_layer_offset", c_void_p),
        ("kv_block_bytes", c_void_p),
        ("kv_dtype", c_int32),
        ("block_tokens", c_int32),
        ("max_logit_rows", c_int32),
        ("vocab_size", c_int32),
        ("logits", Tensor),
        ("pool", c_void_p),
        ("isa", c_int32),
        ("reserved", c_int32),
        ("tunings", POINTER(Tuning)),
        ("states", c_void_p),
        ("state_floats", c_int64),
    ]


class Step(ctypes.Structure):
    """The arrays of one step."""

    __slots__ = ()
    _fields_: ClassVar[Any] = [
        ("num_tokens", c_int32),
        ("num_requests", c_int32),
        ("num_logit_rows", c_int32),
        ("block_table_stride", c_int32),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("rope_rows", c_void_p),
        ("query_start", c_void_p),
        ("block_tables", c_void_p),
        ("logit_rows", c_void_p),
        ("rows", c_void_p),
        ("results", c_void_p),
        ("logits_out", c_void_p),
        ("op_nanoseconds", c_void_p),
        ("state_uses", c_void_p),
        ("axis_positions", c_void_p),
        ("given_rows", c_void_p),
        ("num_given_rows", c_int32),
        ("reserved", c_int32),
    ]


SAMPLE_ROW = np.dtype(
    [
        ("seed", np.uint64),
        ("output_index", np.int64),
        *((name, np.uintp) for name in ("prompt", "output", "bias_ids", "bias")),
        *((name, np.uintp) for name in ("allowed", "forbidden", "bad_words", "bitmask")),
        *((name, np.int32) for name in ("num_prompt", "num_output", "num_bias")),
        *((name, np.int32) for name in ("num_allowed", "num_forbidden", "num_bad_words")),
        *((name, np.int32) for name in ("top_k", "num_logprobs", "target", "reserved")),
        *((name, np.float32) for name in ("temperature", "top_p", "min_p")),
        ("repetition_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
    ],
    align=True,
)
"""quire_sample_row as a numpy record; pointers are addresses, 0 for none."""

SAMPLE_RESULT = np.dtype(
    [
        ("top_ids", np.uintp),
        ("top_logprobs", np.uintp),
        ("token", np.int32),
        ("rank", np.int32),
        ("logprob", np.float32),
        ("reserved", np.int32),
    ],
    align=True,
)
"""quire_sample_result as a numpy record."""
