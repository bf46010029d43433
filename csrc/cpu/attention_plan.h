// How the work of attention is cut: queries into tiles, and the keys of a long tile into spans.
#ifndef QUIRE_ATTENTION_PLAN_H
#define QUIRE_ATTENTION_PLAN_H

#include <vector>

#include "attention_chunks.h"
#include "kernels.h"

namespace quire {
class AttentionPlan {
  public:
    // Cuts the step for one attention op; nothing is done again for an op of the same shape.
    void cut(const quire_op &op, const quire_program &program, const quire_step &step,
             int num_threads);

    std::vector<QueryTile> tiles;
    std::vector<KeySpan> spans;
    std::vector<SplitTile> split;
    int64_t tile_tokens = 0, partial_floats = 0;
    int64_t work = 0;  // products of a query row and a key

  private:
    void cut_tiles(const quire_op &op, const quire_program &program, const quire_step &step);
    void cut_spans(const quire_op &op, int num_threads);

    int64_t work_of(const QueryTile &tile) const;

    int32_t heads_ = 0, kv_heads_ = 0, head_dim_ = 0;
    int32_t window_ = -1, visible_chunk_ = -1, bidirectional_ = 0;
    int64_t chunk_ = 0;
};

}  // namespace quire

#endif
