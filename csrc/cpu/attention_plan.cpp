#include "attention_plan.h"

namespace quire {
namespace {

// A unit of more than this share of a thread's part of the work is split, so that threads end
// together; what that takes in memory for partial results is bounded.
constexpr int64_t kUnitsPerThread = 4;
constexpr int64_t kMostPartialFloats = 4 << 20;

}  // namespace

void AttentionPlan::cut(const quire_op &op, const quire_program &program, const quire_step &step,
                        int num_threads) {
    if (op.heads == heads_ && op.kv_heads == kv_heads_ && op.head_dim == head_dim_ &&
        op.window == window_ && op.chunk == visible_chunk_ &&
        op.bidirectional == bidirectional_) {
        return;
    }
    heads_ = op.heads, kv_heads_ = op.kv_heads, head_dim_ = op.head_dim;
    window_ = op.window, visible_chunk_ = op.chunk, bidirectional_ = op.bidirectional;
    chunk_ = chunk_positions(program.block_tokens);
    cut_tiles(op, program, step);
    cut_spans(op, num_threads);
}

void AttentionPlan::cut_tiles(const quire_op &op, const quire_program &, const quire_step &step) {
    const int32_t group = op.heads / op.kv_heads;
    tile_tokens = group < kTileRows ? kTileRows / group : 1;
    tiles.clear();
    work = 0;
    for (int32_t r = 0; r < step.num_requests; r++) {
        const int32_t end = step.query_start[r + 1];
        for (int32_t t = step.query_start[r]; t < end; t += int32_t(tile_tokens)) {
            QueryTile tile = {};
            tile.request = r, tile.first_token = t;
            tile.num_tokens = int32_t(smaller(end - t, tile_tokens));
            const int64_t oldest = oldest_seen(op, step.positions[t]);
            const int32_t last = op.bidirectional ? end : t + tile.num_tokens;
            const int64_t newest = step.positions[last - 1];
            tile.first_chunk = int32_t(oldest / chunk_);
            tile.num_chunks = int32_t(newest / chunk_ + 1) - tile.first_chunk;
            tile.num_keys = int32_t(newest + 1 - tile.first_chunk * chunk_);
            tiles.push_back(tile);
            work += work_of(tile);
        }
    }
}

int64_t AttentionPlan::work_of(const QueryTile &tile) const {
    return int64_t(tile.num_keys) * tile.num_tokens * heads_;
}

void AttentionPlan::cut_spans(const quire_op &op, int num_threads) {
    spans.clear();
    split.clear();
    partial_floats = 0;
    const int64_t most = larger(work / (kUnitsPerThread * num_threads), 1) * op.kv_heads;
    for (int32_t i = 0; i < int32_t(tiles.size()); i++) {
        QueryTile &tile = tiles[i];
        const int64_t rows = int64_t(tile.num_tokens) * (op.heads / op.kv_heads);
        const int64_t floats =
            quire::partial_floats(rows, op.head_dim) * tile.num_chunks * op.kv_heads;
        int64_t parts =
            num_threads > 1 ? smaller(ceil_div(work_of(tile), most), tile.num_chunks) : 1;
        if (partial_floats + floats > kMostPartialFloats) parts = 1;
        tile.partials = -1;
        if (parts > 1) {
            tile.partials = partial_floats;
            partial_floats += floats;
            split.push_back({i});
        }
        const int64_t size = ceil_div(tile.num_chunks, parts);
        for (int64_t c = 0; c < tile.num_chunks; c += size) {
            spans.push_back(
                {i, int32_t(tile.first_chunk + c), int32_t(smaller(size, tile.num_chunks - c))});
        }
    }
}

}  // namespace quire
