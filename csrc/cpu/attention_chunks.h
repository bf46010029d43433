// The sizes that attention's plan and its kernels agree on.  Static: see formats.h.
#ifndef QUIRE_ATTENTION_CHUNKS_H
#define QUIRE_ATTENTION_CHUNKS_H

#include "integers.h"
#include "quire.h"

namespace quire {
namespace {

constexpr int64_t kTileRows = 96;    // a tile has at most so many rows, or one token
constexpr int64_t kChunk = 256;      // positions, rounded up to whole blocks
constexpr int64_t kChunkRoom = 288;  // for blocks of 16, 32 or 48 tokens

QUIRE_INLINE int64_t chunk_positions(int64_t block_tokens) {
    return round_up(kChunk, block_tokens);
}

// The first position that a token sees.
QUIRE_INLINE int64_t oldest_seen(const quire_op &op, int64_t position) {
    if (op.chunk > 0) return position - position % op.chunk;
    return op.window > 0 && position >= op.window ? position - op.window + 1 : 0;
}

// The result of one chunk for one row: weighted values, padded, and the two numbers of the softmax.
QUIRE_INLINE int64_t padded_dims(int64_t head_dim) {
    return round_up(head_dim, 32);
}
QUIRE_INLINE int64_t partial_floats(int64_t num_rows, int64_t head_dim) {
    return num_rows * (padded_dims(head_dim) + 2);
}

}  // namespace
}  // namespace quire

#endif
