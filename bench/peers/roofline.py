"""The most tokens per second that a machine's measured rates allow for a workload."""

from __future__ import annotations

from collections.abc import Mapping

from bench.peers.shapes import WEIGHT_BYTES, Precision, Shape
from bench.peers.workloads import Workload

__all__ = ["roof"]

KV_BYTES = {False: 2.0, True: 1.0}


def roof(
    shape: Shape, precision: Precision, workload: Workload, rates: Mapping[str, float]
) -> float | None:
    """Tokens per second if either memory or arithmetic were all that took time.

    rates: "read" in bytes/s, a precision in operations/s.  None for serving, and where the
    arithmetic of the precision was not measured and could be what limits.
    """
    if workload.kind not in ("prefill", "decode") or "read" not in rates:
        return None
    decode = workload.kind == "decode"
    context = workload.input + workload.output / 2 if decode else workload.input / 2
    tokens = workload.batch if decode else workload.batch * workload.input
    heads = workload.batch  # the head computes only the rows that are sampled
    operations = tokens * (2 * shape.body_parameters(1) + shape.attention_operations(context))
    operations += heads * 2 * shape.head_parameters
    weights = (shape.body_parameters(tokens) + shape.head_parameters) * WEIGHT_BYTES[precision]
    kv = workload.batch * context * shape.kv_values * KV_BYTES[workload.int8_kv] if decode else 0.0
    reading = (weights + kv) / rates["read"]
    if precision in rates:
        return tokens / max(reading, operations / rates[precision])
    return tokens / reading if tokens == 1 else None
