"""Makes the files beside it: small layers of other projects' formats, and what these decode to.

    python tests/quant/golden/make.py compressed-tensors | bitsandbytes | torchao
    python tests/quant/golden/make.py awq PATH | gptq PATH | hqq PATH     of the unpacked source

Run in an environment with torch and compressed-tensors 0.20.0, bitsandbytes 0.50.2, torchao 0.18.0;
AutoAWQ 0.2.9, AutoGPTQ 0.7.1 and hqq 0.2.8.post1 are taken from their sources.  A file holds
`CASE.m.PART` tensors and, for each case, its quantization_config, shape, and the digest of the
decoded float32 matrix, with -0 as 0.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

torch.manual_seed(0)
ROWS, COLS, GROUP = 32, 96, 32
TENSORS: dict[str, torch.Tensor] = {}
CASES: dict[str, str] = {}


def add(case, config, parts, decoded):
    """Keep one layer."""
    shape = list(decoded.shape)
    digest = hashlib.blake2b((decoded.float() + 0.0).contiguous().numpy().tobytes(), digest_size=16)
    TENSORS.update({f"{case}.m.{part}": t.clone().contiguous() for part, t in parts.items()})
    CASES[case] = json.dumps({"config": config, "shape": shape, "digest": digest.hexdigest()})


def load(path, name):
    """A module of a project that cannot be installed as a whole."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def awq(source):
    packing = load(f"{source}/awq/utils/packing_utils.py", "packing_utils")
    for size in (32, -1):
        group = COLS if size == -1 else size
        qweight = torch.randint(-(2**31), 2**31, (COLS, ROWS // 8), dtype=torch.int32)
        qzeros = torch.randint(-(2**31), 2**31, (COLS // group, ROWS // 8), dtype=torch.int32)
        scales = torch.randn(COLS // group, ROWS).half()
        decoded = packing.dequantize_gemm(qweight, qzeros, scales.float(), 4, group)
        config = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm"}
        config |= {"zero_point": True, "modules_to_not_convert": None}
        parts = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
        add(f"awq{size}", config, parts, decoded.T)


def even_fields(words, bits):
    """Words that are ones but for the lowest bit of each field of `bits`."""
    lines = ["".join("01"[i % bits > 0] for i in range(w * 32, w * 32 + 32)) for w in range(words)]
    numbers = [int(line[::-1], 2) for line in lines]
    return torch.tensor([n - 2**32 if n >= 2**31 else n for n in numbers], dtype=torch.int32)


def gptq(source):
    folder = f"{source}/auto_gptq/nn_modules/qlinear"
    module = load(f"{folder}/qlinear_cuda.py", "qlinear_cuda")
    for bits in (2, 3, 4, 8):
        for act_order in (False, True):
            layer = module.QuantLinear(bits, GROUP, COLS, ROWS, False)
            layer.qweight.random_(-(2**31), 2**31)
            # The kernels differ about a stored 2**bits - 1 (0 or 2**bits), so none is all ones.
            layer.qzeros.random_(-(2**31), 2**31)
            layer.qzeros &= even_fields(layer.qzeros.shape[1], bits)
            scales = torch.randn(COLS // GROUP, ROWS).half()
            layer.scales = scales.float()
            if act_order:
                layer.g_idx = layer.g_idx[torch.randperm(COLS)].contiguous()
            decoded = layer(torch.eye(COLS)).T
            config = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": False}
            config |= {"desc_act": act_order, "checkpoint_format": "gptq"}
            parts = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": scales}
            parts["g_idx"] = layer.g_idx
            add(f"gptq{bits}{'-act-order' * act_order}", config, parts, decoded)


def hqq(source):
    sys.path.insert(0, source)
    from hqq.core.quantize import Quantizer
    from hqq.core.utils import encode_safetensor_type

    for bits in (1, 2, 3, 4, 8):
        # 32 along rows of 96; 64 ends inside one; 192 is two.
        for axis, size in ((0, GROUP), (1, GROUP), *([(1, 64), (1, 192)] if bits == 4 else ())):
            params = {"nbits": bits, "group_size": size, "axis": axis}
            w_q, meta = Quantizer.quantize(
                torch.randn(ROWS, COLS), **params, device="cpu", compute_dtype=torch.float32
            )
            meta["scale"], meta["zero"] = meta["scale"].half(), meta["zero"].half()
            wide = meta | {"scale": meta["scale"].float(), "zero": meta["zero"].float()}
            decoded = Quantizer.dequantize(w_q, wide)
            parts = {"W_q": w_q} | {k: encode_safetensor_type(v) for k, v in meta.items()}
            weights = {**params, "view_as_float": False, "channel_wise": True, "optimize": True}
            inner = {"weight_quant_params": weights, "scale_quant_params": None}
            inner |= {"zero_quant_params": None, "offload_meta": False}
            config = {"quant_method": "hqq", "quant_config": inner, "skip_modules": ["lm_head"]}
            add(f"hqq{bits}-axis{axis}-{size}", config, parts, decoded)


def bitsandbytes():
    from bitsandbytes import functional as f
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            for cols in (128, COLS):
                weight = torch.randn(ROWS, cols)
                packed, state = f.quantize_4bit(
                    weight, blocksize=64, quant_type=kind, compress_statistics=nested
                )
                parts = {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}
                config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
                config |= {"bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}
                config |= {"bnb_4bit_compute_dtype": "bfloat16", "llm_int8_skip_modules": None}
                # Its CPU kernel starts blocks anew in each row; the generic one is right.
                absmax = state.absmax
                if nested:
                    absmax = f.dequantize_blockwise(absmax, state.state2) + state.offset
                decoded = _dequantize_4bit_compute(
                    packed.reshape(-1), absmax, state.code, 64, weight.shape, torch.float32
                )
                name = f"{kind}{'-nested' * nested}-{cols}"
                add(name, config, {"weight": packed, **parts}, decoded)


def torchao():
    from torchao.quantization import Float8Tensor, Int8Tensor, IntxUnpackedToInt8Tensor
    from torchao.quantization.granularity import PerRow

    weight = torch.randn(ROWS, COLS)
    for case, kind, tensor in (
        ("int8", "Int8WeightOnlyConfig", Int8Tensor.from_hp(weight, PerRow())),
        (
            "intx",
            "IntxWeightOnlyConfig",
            IntxUnpackedToInt8Tensor.from_hp(weight, (1, GROUP), torch.int4),
        ),
        ("float8", "Float8WeightOnlyConfig", Float8Tensor.from_hp(weight, granularity=PerRow())),
    ):
        names = [*tensor.tensor_data_names, *getattr(tensor, "optional_tensor_data_names", [])]
        found = {name: getattr(tensor, name) for name in names}
        parts = {f"_weight_{name}": t for name, t in found.items() if t is not None}
        kinds = {"default": {"_type": kind, "_version": 2, "_data": {}}}
        config = {"quant_method": "torchao", "quant_type": kinds, "modules_to_not_convert": None}
        add(case, config, parts, tensor.dequantize())


def compressed_tensors():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    def case(name, layout, scale, zero=None, extra=None, scale_dtype=None, **args):
        arguments = QuantizationArgs(**args)
        scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format=layout)
        state = {"weight": torch.randn(ROWS, COLS), "weight_scale": scale, **(extra or {})}
        if zero is not None:
            state["weight_zero_point"] = zero
        compressor = BaseCompressor.get_value_from_registry(layout)
        stored = compressor.compress(dict(state), scheme)
        wide = {
            k: v.float() if k == "weight_scale" and v.dtype == torch.bfloat16 else v
            for k, v in stored.items()
        }
        decoded = compressor.decompress(dict(wide), scheme)["weight"]
        group = {"targets": ["Linear"], "weights": json.loads(arguments.model_dump_json())}
        group |= {"input_activations": None, "output_activations": None, "format": layout}
        config = {"quant_method": "compressed-tensors", "format": layout, "ignore": ["lm_head"]}
        config |= {"quantization_status": "compressed", "config_groups": {"group_0": group}}
        add(name, config, stored, decoded)

    def scales(groups):
        return (torch.rand(ROWS, groups) + 0.5) / 8

    for bits in (2, 3, 4, 8):
        for symmetric in (True, False):
            for groups in (3, 1):
                args = {"num_bits": bits, "symmetric": symmetric}
                grouped = {"strategy": "group", "group_size": GROUP}
                args |= grouped if groups > 1 else {"strategy": "channel"}
                low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
                zero = torch.randint(low, high, (ROWS, groups), dtype=torch.int8)
                scale = scales(groups).bfloat16() if bits == 4 else scales(groups)
                name = f"pack{bits}-{'sym' if symmetric else 'asym'}-{args['strategy']}"
                case(name, "pack-quantized", scale, None if symmetric else zero, **args)
    zero = torch.randint(-128, 128, (ROWS, 1), dtype=torch.int8)
    eight = {"num_bits": 8, "strategy": "channel"}
    case("int8-sym", "int-quantized", scales(1), **eight)
    case("int8-asym", "int-quantized", scales(1), zero, symmetric=False, **eight)
    case("int8-tensor", "int-quantized", torch.rand(1), num_bits=8, strategy="tensor")
    case("naive4", "naive-quantized", scales(1), num_bits=4, strategy="channel")
    float8 = {"num_bits": 8, "type": "float"}
    case("float8-channel", "float-quantized", scales(1), strategy="channel", **float8)
    case("float8-tensor", "float-quantized", torch.rand(1) / 8, strategy="tensor", **float8)
    block = {"strategy": "block", "block_structure": [16, 32]}
    case("float8-block", "float-quantized", torch.rand(2, 3) / 8, **block, **float8)
    float4 = {"num_bits": 4, "type": "float", "symmetric": True}
    tensor_group = {"strategy": "tensor_group", "group_size": 16, "scale_dtype": "float8_e4m3fn"}
    nv_scale = (torch.rand(ROWS, COLS // 16) * 100 + 1).to(torch.float8_e4m3fn).float()
    extra = {"weight_global_scale": torch.tensor([128.0])}
    case("nvfp4", "nvfp4-pack-quantized", nv_scale, extra=extra, **float4, **tensor_group)
    powers = 2.0 ** torch.randint(-6, 3, (ROWS, COLS // 32)).float()
    case("mxfp4", "mxfp4-pack-quantized", powers, strategy="group", group_size=32, **float4)


if __name__ == "__main__":
    method, *paths = sys.argv[1:]
    globals()[method.replace("-", "_")](*paths)
    target = Path(__file__).parent / f"{method}.safetensors"
    save_file(TENSORS, target, CASES)
    print(target, len(CASES), "cases,", target.stat().st_size, "bytes")
