"""GPTQ as AutoGPTQ and GPTQModel store it: 2, 3, 4 or 8 bits, perhaps in order of activation.

    qweight  int32   [in * bits / 32, out]      a stream of bits down each output
    qzeros   int32   [groups, out * bits / 32]  a stream of bits along the outputs
    scales   float16 [groups, out]
    g_idx    int32   [in]                       the group of each input; i // group_size without it
    weight[o, i] = (code[i, o] - zero[g_idx[i], o]) * scale[g_idx[i], o]

checkpoint_format "gptq" (v1) stores each zero point less one, modulo 2**bits; "gptq_v2" as it is.
Source: AutoGPTQ 0.7, auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py; GPTQModel 7, QUANT_CONFIG.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.errors import ModelError
from quire.quant.formats.calibration_keys import CALIBRATION
from quire.quant.formats.group_order import groups_in_order, order_of_groups
from quire.quant.formats.half_scales import half_scales, zeros_of
from quire.quant.formats.scheme import ModuleSchemes, Scheme, Tensors, whole_rows
from quire.quant.formats.settings import Settings, is_listed
from quire.quant.formats.words import WORD_BITS, pack_words, unpack_words, words_for
from quire.quant.matrix import QuantizedMatrix

__all__ = ["BITS", "Options", "config", "read", "scheme", "schemes", "write"]

BITS = (2, 3, 4, 8)


@dataclass(frozen=True, slots=True)
class Options:
    """What decides how a layer is read.  one_less: zero points are stored less one (v1)."""

    bits: int
    group_size: int | None
    symmetric: bool = True
    desc_act: bool = False
    one_less: bool = True


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (gptq)")
    settings.get("quant_method")
    format_key = "checkpoint_format" if "checkpoint_format" in config else "format"
    version = settings.choice(format_key, "gptq", ("gptq", "gptq_v2"))
    settings.choice("format", version, (version,))
    settings.choice("pack_dtype", "int32", ("int32",))
    settings.choice("data_type", "int", ("int",))
    options = Options(
        settings.integer("bits", 4, BITS),
        settings.group_size("group_size", 128),
        settings.flag("sym", True),
        settings.flag("desc_act", False),
        version == "gptq",
    )
    rules = _rules(settings, options)
    plain = settings.names("modules_to_not_convert")
    head = settings.flag("lm_head", False)
    settings.skip(*CALIBRATION)
    settings.finish()

    def scheme_of(module: str) -> Scheme | None:
        if is_listed(module, plain):
            return None
        for pattern, changed in rules:
            if pattern.match(module):
                return None if changed is None else scheme(changed)
        is_head = module == "lm_head" or module.endswith(".lm_head")
        return None if is_head and not head else scheme(options)

    return scheme_of


def read(tensors: Tensors, options: Options) -> QuantizedMatrix:
    """The matrix that the tensors of one layer hold; CheckpointError if they do not fit."""
    rows, cols = tensors.shape
    bits, size = options.bits, whole_rows(options.group_size, cols)
    groups = -(-cols // size)
    if rows * bits % WORD_BITS or cols * bits % WORD_BITS:
        raise tensors.error(f"{bits}-bit codes of its rows or columns do not fill 32-bit words")
    words = tensors.take("qweight", ("I32",), (words_for(cols, bits), rows))
    stored = tensors.take("qzeros", ("I32",), (groups, words_for(rows, bits)))
    codes = unpack_words(words.T, bits, cols)
    zeros = unpack_words(stored, bits, rows).T
    if options.one_less:
        zeros = (zeros + np.uint8(1)) & np.uint8((1 << bits) - 1)
    scales = np.ascontiguousarray(tensors.floats("scales", (groups, rows)).T)
    order = order_of_groups(tensors, "g_idx", size)
    if order is not None:
        codes = np.ascontiguousarray(codes[:, order])
    kept = None if (zeros == 1 << (bits - 1)).all() else np.ascontiguousarray(zeros)
    return QuantizedMatrix(tensors.module, bits, size, codes, scales, kept, order=order)


def write(name: str, matrix: QuantizedMatrix) -> dict[str, npt.NDArray[Any]]:
    """The tensors of layer `name` (without ".weight"), by their full names, as v1.

    Raises ValueError for what the format cannot hold: other bits than 2, 3, 4 and 8, minimums, a
    table, scales that float16 would round, rows or columns that do not fill 32-bit words.
    """
    (rows, cols), bits = matrix.shape, matrix.bits
    if bits not in BITS or rows * bits % WORD_BITS or cols * bits % WORD_BITS:
        raise ValueError(
            f"{name!r} is {rows} × {cols} in {bits} bits; GPTQ holds 2, 3, 4 or 8 bits that fill "
            "32-bit words along rows and columns"
        )
    codes, group_of = groups_in_order(matrix)
    one_less = (zeros_of(matrix) - np.uint8(1)) & np.uint8((1 << bits) - 1)
    return {
        f"{name}.qweight": np.ascontiguousarray(pack_words(codes, bits).T),
        f"{name}.qzeros": pack_words(np.ascontiguousarray(one_less.T), bits),
        f"{name}.scales": np.ascontiguousarray(half_scales(matrix).T),
        f"{name}.g_idx": group_of,
    }


def config(
    bits: int,
    group_size: int | None,
    symmetric: bool,
    desc_act: bool = False,
    not_converted: Sequence[str] = (),
) -> dict[str, Any]:
    """The quantization_config of a checkpoint with such tensors; group_size None: whole rows.

    not_converted: layers that stay plain floats, by full name; the head does so anyway.
    """
    dynamic: dict[str, Any] = {
        f"-:{re.escape(module)}$": {} for module in not_converted if module != "lm_head"
    }
    return {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": -1 if group_size is None else group_size,
        "sym": symmetric,
        "desc_act": desc_act,
        "lm_head": False,
        "checkpoint_format": "gptq",
        **({"dynamic": dynamic} if dynamic else {}),
    }


def scheme(options: Options) -> Scheme:
    """How a layer with these options is stored."""
    size = "whole rows" if options.group_size is None else f"groups of {options.group_size}"
    return Scheme(
        f"gptq {options.bits} bits, {size}{', in order of activation' * options.desc_act}",
        options.bits,
        options.group_size,
        "symmetric" if options.symmetric else "zeros",
        ("qweight", "qzeros", "scales"),
        partial(read, options=options),
        optional=("g_idx",),
        reordered=options.desc_act,
    )


def _rules(settings: Settings, options: Options) -> list[tuple[re.Pattern[str], Options | None]]:
    """What GPTQModel's "dynamic" says: patterns of modules, and their options; None: plain."""
    section = settings.section("dynamic")
    rules: list[tuple[re.Pattern[str], Options | None]] = []
    for key, values in section.items() if section else ():
        sign, text = key[:2], key[2:] if key[:2] in ("+:", "-:") else key
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise ModelError(f"{settings.where}.dynamic: {key!r:.200}: {error}") from None
        if sign == "-:":
            rules.append((pattern, None))
            continue
        if not isinstance(values, dict):
            raise settings.error("dynamic", values, "an object for each pattern")
        rules.append((pattern, _changed(options, values, f"{settings.where}.dynamic.{key:.80}")))
    return rules


def _changed(options: Options, values: Mapping[str, Any], where: str) -> Options:
    changes = Settings(values, where)
    size = -1 if options.group_size is None else options.group_size
    changed = replace(
        options,
        bits=changes.integer("bits", options.bits, BITS),
        group_size=changes.group_size("group_size", size),
        symmetric=changes.flag("sym", options.symmetric),
        desc_act=changes.flag("desc_act", options.desc_act),
    )
    changes.skip(*CALIBRATION)
    changes.finish()
    return changed
