// Attention over cached latents: every query head reads the same rows, as keys and as values.
//
// It is AttentionUnit with other products: chunks, softmax, partial results and their merging are
// its own.  Queries and rows both lie along their numbers, so scores are sums along vectors: a tile
// of a few heads and a few rows of the cache, each loaded number used by all of the other side.
// A group of query rows belongs to one token, so all of it sees the same positions.
namespace quire {
namespace {

template <class V, class Cache>
struct LatentUnit {
    static constexpr bool kCodes = KvFormat<Cache>::kScales;
    static constexpr int64_t kPositionsInPlace = 64;
    static constexpr int64_t kRowsAhead = 12;

    AttentionUnit<V, Cache> common;
    const quire_op &op;
    const Run &run;
    const int64_t C, width;
    float scale = 0;    // of the token in hand
    bool cold = false;  // nothing has asked for the rows in hand yet

    LatentUnit(const quire_op &op, const Run &run, int64_t tile, int64_t heads, char *scratch)
        : common(op, run, tile, heads, scratch),
          op(op),
          run(run),
          C(op.head_dim),
          width(op.head_dim + op.rope_dims) {}

    // Finds the blocks of a chunk that rows see.
    void find(int64_t index, Chunk<Cache> *chunk) const {
        const quire_program &program = *run.program;
        const int64_t B = common.B, start = index * common.C;
        const int64_t end = smaller(common.newest_of(common.num_rows - 1) + 1, start + common.C);
        const int32_t *table =
            run.step->block_tables + int64_t(common.tile.request) * run.step->block_table_stride;
        chunk->start = start, chunk->to = 0;
        for (int64_t position = start; position < end; position += B) {
            const LatentBlock<Cache> block =
                latent_block<Cache>(program.kv + program.kv_layer_offset[op.layer] +
                                        table[position / B] * program.kv_block_bytes[op.layer],
                                    B, width);
            for (int64_t offset = 0; offset < B; offset += V::kWidth, chunk->to++) {
                chunk->values[chunk->to] = block.rows + offset * width;
                chunk->value_scales[chunk->to] = block.latent_scales + offset;
                chunk->key_scales[chunk->to] = block.rope_scales + offset;
            }
        }
    }

    QUIRE_INLINE float *weights_of(int64_t row) const {
        return common.memory.weights + row * kChunkRoom;
    }
    QUIRE_INLINE const float *query(int64_t row) const {
        const int64_t head = common.kv_head * common.group + row % common.group;
        return run.row(op.in[0], common.tile.first_token + row / common.group) + head * width;
    }
    QUIRE_INLINE const Cache *cached(int64_t p) const {
        return common.now->values[p / V::kWidth] + p % V::kWidth * width;
    }

    // Numbers from d on of the row in the next chunk that stands where p does in this one, or null.
    QUIRE_INLINE const Cache *next_row(int64_t p, int64_t d) const {
        const int64_t vector = p / V::kWidth;
        if (vector >= common.next->to) return nullptr;
        return common.next->values[vector] + p % V::kWidth * width + d;
    }
    QUIRE_INLINE void fetch(const Cache *from, int64_t numbers) const {
        for (int64_t i = 0; from && i < numbers; i += 64 / sizeof(Cache)) {
            QUIRE_PREFETCH_L2(from + i);
        }
    }

    // Adds products of n numbers from d on, M queries with N rows, to sums.
    template <int M, int N, bool Scaled>
    QUIRE_INLINE void add_products(const float *queries, const Cache *const (&rows)[N],
                                   const float (&scales)[N], int64_t d, int64_t end,
                                   typename V::Float (&sums)[M][N]) {
        const auto step = [&](auto load) QUIRE_INLINE_LAMBDA {
            typename V::Float k[N];
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                k[n] = load(rows[n] + d);
                if constexpr (Scaled) k[n] = V::mul(k[n], V::broadcast(scales[n]));
            }
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) {
                typename V::Float q = load(queries + m * width + d);
                V::keep(q);
                QUIRE_UNROLL
                for (int n = 0; n < N; n++) sums[m][n] = V::fma(q, k[n], sums[m][n]);
            }
        };
        for (; d + V::kWidth <= end; d += V::kWidth) {
            step([](const auto *p) QUIRE_INLINE_LAMBDA { return V::load(p); });
        }
        if (d < end) {
            step([&](const auto *p) QUIRE_INLINE_LAMBDA { return V::load_partial(p, end - d); });
        }
    }

    // Scores of M query rows and N positions from p on: one sum of vectors each, then of its lanes.
    template <int M, int N>
    void score_tile(int64_t row, int64_t p) {
        const Cache *rows[N];
        float latent_scales[N], rope_scales[N];
        typename V::Float sums[M][N];
        QUIRE_UNROLL
        for (int n = 0; n < N; n++) {
            rows[n] = cached(p + n);
            if constexpr (kCodes) {
                const int64_t vector = (p + n) / V::kWidth, lane = (p + n) % V::kWidth;
                latent_scales[n] = common.now->value_scales[vector][lane];
                rope_scales[n] = common.now->key_scales[vector][lane];
            }
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) sums[m][n] = V::zero();
        }
        const float *queries = query(row);
        if constexpr (kCodes) {
            add_products<M, N, false>(queries, rows, latent_scales, 0, C, sums);
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                const auto factor = V::broadcast(latent_scales[n]);
                QUIRE_UNROLL
                for (int m = 0; m < M; m++) sums[m][n] = V::mul(sums[m][n], factor);
            }
            add_products<M, N, true>(queries, rows, rope_scales, C, width, sums);
        } else {
            add_products<M, N, false>(queries, rows, latent_scales, 0, width, sums);
        }
        float totals[M * N];
        constexpr int kFours = M * N / 4 * 4;
        const auto sum = [&](int i) QUIRE_INLINE_LAMBDA { return sums[i / N][i % N]; };
        QUIRE_UNROLL
        for (int i = 0; i < kFours; i += 4) {
            V::sum4(sum(i), sum(i + 1), sum(i + 2), sum(i + 3), totals + i);
        }
        QUIRE_UNROLL
        for (int i = kFours; i < M * N; i++) totals[i] = V::sum(sum(i));
        QUIRE_UNROLL
        for (int i = 0; i < M * N; i++) weights_of(row + i / N)[p + i % N] = totals[i] * scale;
    }

    template <int M>
    void make_scores(int64_t row, int64_t end) {
        constexpr int N = vectors_beside<V, M>() < 4 ? vectors_beside<V, M>() : 4;
        int64_t p = 0;
        for (; p + N <= end; p += N) {
            for (int64_t i = p + kRowsAhead; cold && i < smaller(p + kRowsAhead + N, end); i++) {
                fetch(cached(i), width);
            }
            score_tile<M, N>(row, p);
        }
        for (; p < end; p++) score_tile<M, 1>(row, p);
    }

    template <int M>
    void add_values(int64_t row, int64_t end, float *sums) {
        const ValueRows<Cache> values = {common.now->values, width, common.B};
        const bool fetches = row == 0 && common.next->to > 0;
        for (int64_t p = 0; p < end; p += kPositionsInPlace) {
            const int64_t to = smaller(p + kPositionsInPlace, end);
            for (int64_t i = p; fetches && i < to; i++) fetch(next_row(i, C), op.rope_dims);
            each_tile<V, vectors_beside<V, M>()>(0, C, [&](auto count, auto whole, int64_t d) {
                value_tile<V, M, count.value, whole.value>(
                    weights_of(row), values, d, C - d, p, to, sums + d, common.P, [&](int64_t i) {
                        return reinterpret_cast<const char *>(fetches ? next_row(i, d) : nullptr);
                    });
            });
        }
    }

    // One group: M heads of one token.
    template <int M>
    void attend_rows(int64_t row, const Partial &out) {
        const int64_t end = common.end_of(row);
        const float factor = op.query_rule ? query_factor(op, common.newest_of(row)) : 1.0f;
        scale = op.scale * kLog2E * factor;
        make_scores<M>(row, end);
        for (int64_t r = row; r < row + M; r++) common.make_weights(r, out);
        float *sums = out.sums + row * common.P;
        for (int64_t i = 0; i < M * common.P; i++) sums[i] = 0.0f;
        add_values<M>(row, end, sums);
    }

    void attend_chunk(int64_t chunk, int64_t first) {
        const Partial out = common.partial(chunk);
        for (int64_t row = 0; row < common.num_rows;) {
            const int64_t heads = common.group - row % common.group;  // left of the token
            const int64_t count = heads / ceil_div(heads, kGroupRows<V>);
            cold = row == 0 && chunk == first;
            with_rows<kGroupRows<V>>(
                count, [&](auto rows) { attend_rows<decltype(rows)::value>(row, out); });
            row += count;
        }
        if (common.tile.partials < 0) common.merge(chunk);
    }

    void attend(int64_t first, int64_t count) {
        find(first, common.now);
        for (int64_t chunk = first; chunk < first + count; chunk++) {
            common.next->to = 0;
            if (chunk + 1 < first + count) find(chunk + 1, common.next);
            attend_chunk(chunk, first);
            Chunk<Cache> *done = common.now;
            common.now = common.next;
            common.next = done;
        }
        if (common.tile.partials < 0) common.finish();
    }
};

template <class V, class Cache>
void latent_attention_as(const quire_op &op, const Run &run, char *scratch, int64_t first,
                         int64_t last) {
    for (int64_t i = first; i < last; i++) {
        const KeySpan &span = run.spans[i / op.kv_heads];
        LatentUnit<V, Cache> unit(op, run, span.tile, i % op.kv_heads, scratch);
        unit.attend(span.first_chunk, span.num_chunks);
    }
}

template <class V>
void latent_attention(const quire_op &op, const Run &run, char *scratch, int64_t first,
                      int64_t last) {
    switch (run.program->kv_dtype) {
        case QUIRE_KV_F32:
            return latent_attention_as<V, float>(op, run, scratch, first, last);
        case QUIRE_KV_F16:
            return latent_attention_as<V, Half>(op, run, scratch, first, last);
        case QUIRE_KV_BF16:
            return latent_attention_as<V, BFloat16>(op, run, scratch, first, last);
        default:
            return latent_attention_as<V, Code8>(op, run, scratch, first, last);
    }
}

}  // namespace
}  // namespace quire
