// All kernels of one instruction set but the integer ones, from one vector trait.
//
// A unit that includes this file may be compiled for a machine that the rest of the library is not:
// so nothing in it or below may leave a symbol that other units could share.  Everything is in
// anonymous namespaces; of the standard library there are <float.h>, <math.h> and <string.h> only.
#include <float.h>
#include <math.h>
#include <stdint.h>

#include "attention_chunks.h"
#include "integers.h"
#include "kernels.h"
#include "kv_block.h"
#include "latent_block.h"
#include "packed.h"
#include "tuning.h"
#include "unroll.h"
//
#include "each_vector.inl"
#include "exp.inl"
#include "unpack.inl"
//
#include "rows.inl"
//
#include "codes.inl"
//
#include "activation.inl"
#include "convolution.inl"
#include "norm.inl"
#include "recurrence.inl"
#include "rope.inl"
#include "then_quantize.inl"
//
#include "attention_scores.inl"
#include "attention_values.inl"
//
#include "attention_memory.inl"
#include "attention_rules.inl"
//
#include "attention_unit.inl"
//
#include "attention_blocks.inl"
//
#include "attention_keys.inl"
#include "attention_sums.inl"
//
#include "attention.inl"
#include "logits.inl"
#include "matmul.inl"
//
#include "latent_projections.inl"
//
#include "latent_attention.inl"
#include "latent_write.inl"
#include "linear.inl"
#include "spin.inl"

namespace quire {
namespace {

template <class V>
size_t scratch_bytes(const quire_op &op, const Run &run) {
    switch (op.kind) {
        case QUIRE_OP_ATTENTION:
        case QUIRE_OP_LATENT_ATTENTION:
            return attention_scratch_bytes<V>(op, run);
        case QUIRE_OP_ROPE_KV_WRITE:
            return sizeof(float) * op.kv_heads * op.head_dim;
        case QUIRE_OP_LATENT_WRITE:
            return sizeof(float) * op.rope_dims;
        case QUIRE_OP_LATENT_QUERIES:
        case QUIRE_OP_LATENT_VALUES:
            return projection_scratch_bytes<V>(op, run);
        case QUIRE_OP_CONVOLUTION:
            return sizeof(float) * kStripChannels;
        case QUIRE_OP_RECURRENCE:
            return recurrence_scratch_bytes<V>(op);
        default:
            return op.row_dtype != QUIRE_F32 ? sizeof(float) * op.in[0].cols : 0;
    }
}

template <class V>
constexpr Kernels make_kernels(const IntegerKernels &integers) {
    Kernels kernels = {};
    kernels.integers = integers;
    kernels.tile_rows = V::kTileRows;
    kernels.ops[QUIRE_OP_EMBEDDING] = embedding<V>;
    kernels.ops[QUIRE_OP_NORM] = then_quantize<norm<V>>;
    kernels.ops[QUIRE_OP_ADD_NORM] = then_quantize<add_norm<V>>;
    kernels.ops[QUIRE_OP_ADD] = add<V>;
    kernels.ops[QUIRE_OP_LINEAR] = linear<V>;
    kernels.ops[QUIRE_OP_ROPE] = rope<V>;
    kernels.ops[QUIRE_OP_KV_WRITE] = kv_write<V>;
    kernels.ops[QUIRE_OP_ROPE_KV_WRITE] = rope_kv_write<V>;
    kernels.ops[QUIRE_OP_ATTENTION] = attention<V>;
    kernels.ops[QUIRE_OP_GATED] = then_quantize<gated<V>>;
    kernels.ops[QUIRE_OP_GATE_ROWS] = gate_rows<V>;
    kernels.ops[QUIRE_OP_SELECT_ROWS] = select_rows<V>;
    kernels.ops[QUIRE_OP_QUANTIZE] = quantize;
    kernels.ops[QUIRE_OP_ACTIVATE] = then_quantize<activate<V>>;
    kernels.ops[QUIRE_OP_SCALE_LOGITS] = scale_logits<V>;
    kernels.ops[QUIRE_OP_CONVOLUTION] = convolution<V>;
    kernels.ops[QUIRE_OP_RECURRENCE] = recurrence<V>;
    kernels.ops[QUIRE_OP_LATENT_WRITE] = latent_write<V>;
    kernels.ops[QUIRE_OP_LATENT_QUERIES] = latent_queries<V>;
    kernels.ops[QUIRE_OP_LATENT_ATTENTION] = latent_attention<V>;
    kernels.ops[QUIRE_OP_LATENT_VALUES] = latent_values<V>;
    kernels.merge_attention = merge_attention<V>;
    kernels.linear_units = linear_units;
    kernels.projection_units = projection_units;
    kernels.convolution_units = convolution_units;
    kernels.scratch_bytes = scratch_bytes<V>;
    kernels.max_value = max_value<V>;
    kernels.softmax_weights = softmax_weights<V>;
    kernels.softmax_sum = softmax_sum<V>;
    kernels.find_above = find_above<V>;
    kernels.find_all_above = find_all_above<V>;
    kernels.count_before = count_before<V>;
    kernels.spin_fma = spin_fma<V>;
    kernels.spin_read = spin_read<V>;
    return kernels;
}

}  // namespace
}  // namespace quire
