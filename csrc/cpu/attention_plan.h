// How the work of attention is cut: queries into tiles, and the keys of a long tile into spans.
#ifndef QUIRE_ATTENTION_PLAN_H
#define QUIRE_ATTENTION_PLAN_H

#include <vector>

#include "integers.h"
#include "kernels.h"

namespace quire {
namespace {

constexpr int64_t kTileRows = 96;    // a tile has at most so many rows, or one token
constexpr int64_t kChunk = 256;      // positions, rounded up to whole blocks
constexpr int64_t kChunkRoom = 288;  // for blocks of at most 32 tokens

QUIRE_INLINE int64_t chunk_positions(int64_t block_tokens) {
    return round_up(kChunk, block_tokens);
}

// The result of one chunk for one row: weighted values, padded, and the two numbers of the softmax.
QUIRE_INLINE int64_t padded_dims(int64_t head_dim) {
    return round_up(head_dim, 32);
}
QUIRE_INLINE int64_t partial_floats(int64_t num_rows, int64_t head_dim) {
    return num_rows * (padded_dims(head_dim) + 2);
}

}  // namespace

class AttentionPlan {
  public:
    // Cuts the step for one attention op; nothing is done again for an op of the same shape.
    void cut(const quire_op &op, const quire_program &program, const quire_step &step,
             int num_threads);

    std::vector<QueryTile> tiles;
    std::vector<KeySpan> spans;
    std::vector<int32_t> split;  // tiles that have several spans
    int64_t tile_tokens = 0, partial_floats = 0;
    int64_t work = 0;  // products of a query row and a key

  private:
    void cut_tiles(const quire_op &op, const quire_program &program, const quire_step &step);
    void cut_spans(const quire_op &op, int num_threads);

    int64_t work_of(const QueryTile &tile) const;

    int32_t heads_ = 0, kv_heads_ = 0, head_dim_ = 0, window_ = -1;
    int64_t chunk_ = 0;
};

}  // namespace quire

#endif
