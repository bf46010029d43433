"""Layers that other projects wrote decode to the bits that their own code decodes.

golden/make.py says where the files come from.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.quant.formats.registry import find_quantization
from quire.quant.formats.scheme import Tensors
from quire.quant.matrix import QuantizedMatrix
from quire.weights.safetensors import SafetensorsFile

GOLDEN = Path(__file__).parent / "golden"
FILES = {path.stem: SafetensorsFile(path) for path in sorted(GOLDEN.glob("*.safetensors"))}
CASES = [(method, case) for method, file in FILES.items() for case in file.metadata]


def read(method: str, case: str, config: dict[str, Any], shape: list[int]) -> QuantizedMatrix:
    file = FILES[method]
    quantization = find_quantization({"quantization_config": config})
    assert quantization is not None and quantization.method == method
    scheme = quantization.scheme_of("m")
    assert scheme is not None
    start = f"{case}.m."
    found = {n.removeprefix(start): file.tensor(n) for n in file.names if n.startswith(start)}
    assert set(scheme.parts) <= set(found)
    assert set(found) <= {*scheme.parts, *scheme.optional, *scheme.unused}
    kept = {part: found[part] for part in found if part not in scheme.unused}
    matrix = scheme.read(Tensors("m", (shape[0], shape[1]), kept))
    assert matrix.bits == scheme.bits or method == "torchao"
    return matrix


@pytest.mark.parametrize(("method", "case"), CASES)
def test_it_decodes_to_the_same_bits(method: str, case: str) -> None:
    facts = json.loads(FILES[method].metadata[case])
    weights = read(method, case, facts["config"], facts["shape"]).float32()
    assert list(weights.shape) == facts["shape"]
    bits = (weights + np.float32(0)).astype("<f4").tobytes()
    assert hashlib.blake2b(bits, digest_size=16).hexdigest() == facts["digest"]


def test_there_are_files_of_every_writer() -> None:
    assert len(CASES) == 58
    assert set(FILES) == {"awq", "bitsandbytes", "compressed-tensors", "gptq", "hqq", "torchao"}
