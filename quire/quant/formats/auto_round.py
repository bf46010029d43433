"""AutoRound: GPTQ's or AWQ's tensors, with a config of its own.

packing_format (or backend, in older files) names the layout: "auto_round:auto_gptq" is GPTQ's v1,
"auto_round:auto_awq" is AWQ's.  extra_config has other settings for some layers, by name or by a
regular expression for all of it; 16 bits there leave a layer plain.
Source: auto-round 0.8, export/export_to_autoround; vLLM 0.10, quantization/auto_round.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quire.errors import ModelError
from quire.quant.formats import awq, gptq
from quire.quant.formats.calibration_keys import CALIBRATION
from quire.quant.formats.scheme import ModuleSchemes, Scheme
from quire.quant.formats.settings import Settings

__all__ = ["schemes"]

PLAIN_BITS = 16
AWQ_BITS = 4


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (auto-round)")
    settings.get("quant_method")
    is_awq = _is_awq(settings)
    settings.choice("data_type", "int", ("int",))
    usual = _scheme(settings, {}, is_awq)
    section = settings.section("extra_config")
    changed = {}
    for name, values in section.items() if section is not None else ():
        if not isinstance(values, dict):
            raise settings.error("extra_config", values, "an object for each layer")
        own = Settings(values, f"{settings.where}.extra_config.{name:.80}")
        changed[name] = _scheme(own, config, is_awq)
    patterns = [(_pattern(name, settings.where), scheme) for name, scheme in changed.items()]
    settings.skip("quant_lm_head", *CALIBRATION)
    settings.finish()

    def scheme_of(module: str) -> Scheme | None:
        if module in changed:
            return changed[module]
        return next((scheme for pattern, scheme in patterns if pattern.fullmatch(module)), usual)

    return scheme_of


def _is_awq(settings: Settings) -> bool:
    older = settings.get("backend", "auto_round:auto_gptq")
    packing = settings.get("packing_format", older)
    if isinstance(packing, str) and ("gptq" in packing) != ("awq" in packing):
        return "awq" in packing
    raise settings.error("packing_format", packing, "auto_round:auto_gptq or auto_round:auto_awq")


def _scheme(settings: Settings, usual: Mapping[str, Any], is_awq: bool) -> Scheme | None:
    """The scheme of a layer; None: it is plain.  usual: the settings of all layers."""
    bits = settings.integer("bits", usual.get("bits", 4))
    size = settings.group_size("group_size", usual.get("group_size", 128))
    symmetric = settings.flag("sym", usual.get("sym", True))
    if bits >= PLAIN_BITS:
        settings.skip("data_type")
    else:
        settings.choice("data_type", "int", ("int",))
        settings.integer("bits", bits, (AWQ_BITS,) if is_awq else gptq.BITS)
    if usual:
        settings.skip(*CALIBRATION)
        settings.finish()
    if bits >= PLAIN_BITS:
        return None
    return awq.scheme(size) if is_awq else gptq.scheme(gptq.Options(bits, size, symmetric))


def _pattern(name: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(name)
    except re.error as error:
        raise ModelError(f"{where}.extra_config: {name!r:.200}: {error}") from None
