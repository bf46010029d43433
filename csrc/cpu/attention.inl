// Attention over paged keys and values, with the online softmax.
//
// A unit is a kv head of a tile: neighbouring tokens of one request.  Their queries for the query
// heads of that kv head ("rows") use each loaded key and value together.  Keys are walked in chunks
// of positions whose borders are fixed multiples of kChunk, from the oldest; each chunk's scores
// are made (keys lie as [D, B], so a vector holds neighbouring positions), turned into weights, and
// its values added.  A position that a row must not see gets weight 0, and adding 0 * value changes
// no bit: so it does not matter which rows share a tile, nor which blocks were skipped for all of
// them.
namespace quire {
namespace {

constexpr int64_t kChunk = 128;       // positions, rounded up to whole blocks
constexpr int64_t kRowsPerTile = 32;  // a tile has that many rows, or one token
constexpr float kMinusInfinity = -INFINITY;

QUIRE_INLINE int64_t attention_chunk(int64_t block_tokens) {
    return (kChunk + block_tokens - 1) / block_tokens * block_tokens;
}

QUIRE_INLINE int64_t round_up(int64_t n, int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

// The whole blocks of a chunk that a unit reads: positions [first, last), and for each vector of
// positions where its keys and its values begin.
template <class Cache>
struct Chunk {
    int64_t first, last, num_vectors;
    const Cache **keys, **values;
};

// One unit at work.  Sizes: R rows, C positions in a chunk, D padded to whole vectors.
template <class V, class Cache>
struct AttentionUnit {
    const quire_op &op;
    const Run &run;
    const int64_t B, D, padded, C, group, kv_head;
    const QueryTile tile;
    const int64_t num_rows;
    const int64_t oldest, newest;      // positions that any row sees
    float *queries;                    // [R, D], scaled
    float *weights;                    // [R, C]: scores, then softmax weights
    float *sums;                       // [R, padded]: weighted values so far
    float *maxima, *totals, *factors;  // [R]
    Chunk<Cache> now, next;

    AttentionUnit(const quire_op &op, const Run &run, int64_t index, char *scratch)
        : op(op),
          run(run),
          B(run.program->block_tokens),
          D(op.head_dim),
          padded(round_up(D, V::kWidth)),
          C(attention_chunk(B)),
          group(op.heads / op.kv_heads),
          kv_head(index / run.num_tiles),
          tile(run.tiles[index % run.num_tiles]),
          num_rows(tile.num_tokens * group),
          oldest(oldest_of(0)),
          newest(position_of(num_rows - 1)) {
        const int64_t most = C / V::kWidth;
        const Cache **pointers = reinterpret_cast<const Cache **>(scratch);
        now = {0, 0, 0, pointers, pointers + most};
        next = {0, 0, 0, pointers + 2 * most, pointers + 3 * most};
        weights = reinterpret_cast<float *>(pointers + 4 * most);
        sums = weights + num_rows * C;
        queries = sums + num_rows * padded;
        maxima = queries + num_rows * D;
        totals = maxima + num_rows;
        factors = totals + num_rows;
    }

    QUIRE_INLINE int64_t position_of(int64_t row) const {
        return run.step->positions[tile.first_token + row / group];
    }
    QUIRE_INLINE int64_t oldest_of(int64_t row) const {
        const int64_t position = position_of(row);
        return op.window > 0 && position >= op.window ? position - op.window + 1 : 0;
    }

    void start() {
        for (int64_t r = 0; r < num_rows; r++) {
            const int64_t head = kv_head * group + r % group;
            const float *from = run.row(op.in[0], tile.first_token + r / group) + head * D;
            float *to = queries + r * D;
            for_each_vector<V>(D, [&](auto load, auto store) {
                store(to, V::mul(load(from), V::broadcast(op.scale)));
            });
            for (int64_t d = 0; d < padded; d++) sums[r * padded + d] = 0.0f;
            maxima[r] = kMinusInfinity;
            totals[r] = 0.0f;
        }
    }

    // Finds the keys and values of the chunk that starts at `start`; it may be behind the newest.
    void find(int64_t start, Chunk<Cache> *chunk) const {
        chunk->first = (oldest > start ? oldest : start) / B * B;
        const int64_t end = newest + 1 < start + C ? newest + 1 : start + C;
        chunk->last = end > chunk->first ? round_up(end, B) : chunk->first;
        chunk->num_vectors = (chunk->last - chunk->first) / V::kWidth;
        const quire_program &program = *run.program;
        const int32_t *table =
            run.step->block_tables + int64_t(tile.request) * run.step->block_table_stride;
        const Cache **key = chunk->keys, **value = chunk->values;
        for (int64_t block = chunk->first / B; block < chunk->last / B; block++) {
            const Cache *numbers =
                reinterpret_cast<const Cache *>(program.kv + program.kv_layer_offset[op.layer] +
                                                table[block] * program.kv_block_bytes[op.layer]);
            for (int64_t slot = 0; slot < B; slot += V::kWidth) {
                *key++ = numbers + kv_head * D * B + slot;
                *value++ = numbers + (op.kv_heads + kv_head) * D * B + slot * D;
            }
        }
    }

    // Asks for a vector's share of its block's memory.
    QUIRE_INLINE void fetch(const Cache *from) const {
        for (int64_t i = 0; i < D * V::kWidth; i += 64 / sizeof(Cache)) QUIRE_PREFETCH_L2(from + i);
    }
    QUIRE_INLINE void fetch_values(int64_t vector) const { fetch(now.values[vector]); }
    QUIRE_INLINE void fetch_next_keys(int64_t vector) const {
        if (vector >= next.num_vectors) return;
        const int64_t slot = vector * V::kWidth % B;
        fetch(next.keys[vector] + slot * (D - 1));  // the first `slot` shares of the block are past
    }

    template <int R, int N>
    QUIRE_INLINE void score_tile(int64_t row, int64_t vector) {
        typename V::Float scores[R][N];
        const Cache *key[N];
        QUIRE_UNROLL
        for (int n = 0; n < N; n++) {
            key[n] = now.keys[vector + n];
            if (row == 0) fetch_values(vector + n);
            QUIRE_UNROLL
            for (int r = 0; r < R; r++) scores[r][n] = V::zero();
        }
        const float *query = queries + row * D;
        for (int64_t d = 0; d < D; d++) {
            typename V::Float q[R];
            QUIRE_UNROLL
            for (int r = 0; r < R; r++) q[r] = V::broadcast(query[r * D + d]);
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                const typename V::Float k = V::load(key[n] + d * B);
                QUIRE_UNROLL
                for (int r = 0; r < R; r++) scores[r][n] = V::fma(q[r], k, scores[r][n]);
            }
        }
        QUIRE_UNROLL
        for (int r = 0; r < R; r++) {
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                V::store(weights + (row + r) * C + (vector + n) * V::kWidth, scores[r][n]);
            }
        }
    }

    // Adds the weighted values of the chunk's positions [first, last) to N vectors of R rows.
    template <int R, int N>
    QUIRE_INLINE void value_tile(int64_t row, int64_t d, int64_t first, int64_t last) {
        typename V::Float out[R][N];
        QUIRE_UNROLL
        for (int r = 0; r < R; r++) {
            const typename V::Float factor = V::broadcast(factors[row + r]);
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                out[r][n] = V::mul(V::load(sums + (row + r) * padded + d + n * V::kWidth), factor);
            }
        }
        const bool ragged = d + N * V::kWidth > D;
        for (int64_t vector = first / V::kWidth; vector * V::kWidth < last; vector++) {
            if (row == 0 && d == 0) fetch_next_keys(vector);
            const int64_t start = vector * V::kWidth;
            const int64_t from = first > start ? first - start : 0;
            const int64_t to = last - start < V::kWidth ? last - start : V::kWidth;
            const Cache *value = now.values[vector] + from * D + d;
            const float *weight = weights + row * C + start + from;
            for (int64_t slot = from; slot < to; slot++, value += D, weight++) {
                typename V::Float w[R];
                QUIRE_UNROLL
                for (int r = 0; r < R; r++) w[r] = V::broadcast(weight[r * C]);
                QUIRE_UNROLL
                for (int n = 0; n < N; n++) {
                    const typename V::Float v = N == 1 && ragged ? V::load_partial(value, D - d)
                                                                 : V::load(value + n * V::kWidth);
                    QUIRE_UNROLL
                    for (int r = 0; r < R; r++) out[r][n] = V::fma(w[r], v, out[r][n]);
                }
            }
        }
        QUIRE_UNROLL
        for (int r = 0; r < R; r++) {
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                V::store(sums + (row + r) * padded + d + n * V::kWidth, out[r][n]);
            }
        }
    }

    template <int R, int N>
    QUIRE_INLINE int64_t score_tiles(int64_t row, int64_t vector, int64_t num_vectors) {
        for (; vector + N <= num_vectors; vector += N) score_tile<R, N>(row, vector);
        return vector;
    }
    template <int R, int N>
    QUIRE_INLINE int64_t value_tiles(int64_t row, int64_t d, int64_t first, int64_t last) {
        for (; d + N * V::kWidth <= D; d += N * V::kWidth) value_tile<R, N>(row, d, first, last);
        return d;
    }

    template <int R, int N>
    void scores_of_rows(int64_t row, int64_t num_vectors) {
        const int64_t vector = score_tiles<R, N>(row, 0, num_vectors);
        score_tiles<R, 1>(row, vector, num_vectors);
    }
    template <int R, int N>
    void values_of_rows(int64_t row, int64_t first, int64_t last) {
        int64_t d = value_tiles<R, N>(row, 0, first, last);
        if constexpr (N > 2) d = value_tiles<R, 2>(row, d, first, last);
        d = value_tiles<R, 1>(row, d, first, last);
        if (d < D) value_tile<R, 1>(row, d, first, last);
    }

    void make_scores(int64_t num_vectors) {
        int64_t row = 0;
        for (; row + 4 <= num_rows; row += 4) scores_of_rows<4, 2>(row, num_vectors);
        if (num_rows - row == 3) scores_of_rows<3, 2>(row, num_vectors);
        if (num_rows - row == 2) scores_of_rows<2, 4>(row, num_vectors);
        if (num_rows - row == 1) scores_of_rows<1, 8>(row, num_vectors);
    }
    void add_values(int64_t first, int64_t last) {
        int64_t row = 0;
        for (; row + 4 <= num_rows; row += 4) values_of_rows<4, 2>(row, first, last);
        if (num_rows - row == 3) values_of_rows<3, 4>(row, first, last);
        if (num_rows - row == 2) values_of_rows<2, 4>(row, first, last);
        if (num_rows - row == 1) values_of_rows<1, 8>(row, first, last);
    }

    // Turns one row's scores into weights; the chunk in hand starts at position `start`.
    void make_weights(int64_t row, int64_t start, int64_t num_vectors) {
        float *score = weights + row * C;
        const int64_t size = num_vectors * V::kWidth;
        int64_t first = oldest_of(row) - start, end = position_of(row) + 1 - start;
        first = first < 0 ? 0 : first > size ? size : first;
        end = end > size ? size : end < first ? first : end;
        for (int64_t p = 0; p < first; p++) score[p] = kMinusInfinity;
        for (int64_t p = end; p < size; p++) score[p] = kMinusInfinity;

        auto top = V::broadcast(maxima[row]);
        for (int64_t p = 0; p < size; p += V::kWidth) top = V::max(V::load(score + p), top);
        const float maximum = V::max_lane(top);
        if (maximum == kMinusInfinity) {  // nothing seen yet
            for (int64_t p = 0; p < size; p++) score[p] = 0.0f;
            factors[row] = 1.0f;
            return;
        }
        const auto shift = V::broadcast(maximum);
        auto total = V::zero();
        for (int64_t p = 0; p < size; p += V::kWidth) {
            const auto weight = vector_exp<V>(V::sub(V::load(score + p), shift));
            V::store(score + p, weight);
            total = V::add(total, weight);
        }
        float old[V::kWidth];
        V::store(old, vector_exp<V>(V::sub(V::broadcast(maxima[row]), shift)));
        factors[row] = old[0];
        totals[row] = totals[row] * old[0] + V::sum(total);
        maxima[row] = maximum;
    }

    void finish() {
        for (int64_t r = 0; r < num_rows; r++) {
            const int64_t head = kv_head * group + r % group;
            float *to = run.row(op.out[0], tile.first_token + r / group) + head * D;
            const float *from = sums + r * padded;
            for_each_vector<V>(D, [&](auto load, auto store) {
                store(to, V::div(load(from), V::broadcast(totals[r])));
            });
        }
    }

    void attend() {
        start();
        int64_t chunk = oldest / C * C;
        for (find(chunk, &now); chunk <= newest; chunk += C) {
            find(chunk + C, &next);
            make_scores(now.num_vectors);
            for (int64_t r = 0; r < num_rows; r++) make_weights(r, now.first, now.num_vectors);
            const int64_t first = oldest > now.first ? oldest - now.first : 0;
            const int64_t last = (newest + 1 < now.last ? newest + 1 : now.last) - now.first;
            add_values(first, last);
            const Chunk<Cache> done = now;
            now = next;
            next = done;
        }
        finish();
    }
};

template <class V>
size_t attention_scratch_bytes(const quire_op &op, const Run &run) {
    const int64_t C = attention_chunk(run.program->block_tokens);
    const int64_t rows = run.tile_tokens * (op.heads / op.kv_heads);
    const int64_t floats = op.head_dim + round_up(op.head_dim, V::kWidth) + C + 3;
    return sizeof(float) * rows * floats + 4 * sizeof(void *) * C / V::kWidth;
}

template <class V, class Cache>
void attention_as(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) AttentionUnit<V, Cache>(op, run, i, scratch).attend();
}

template <class V>
void attention(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    switch (run.program->kv_dtype) {
        case QUIRE_F32:
            return attention_as<V, float>(op, run, scratch, first, last);
        case QUIRE_F16:
            return attention_as<V, Half>(op, run, scratch, first, last);
        default:
            return attention_as<V, BFloat16>(op, run, scratch, first, last);
    }
}

}  // namespace
}  // namespace quire
