// The scores of a chunk: the rows of a unit times its keys.
namespace quire {
namespace {

template <class V, class Cache>
struct KeyScores {
    using Format = KvFormat<Cache>;
    using Query = typename ScoreSteps<V, Cache>::Query;
    static constexpr int kGroup = kGroupRows<V>;
    static constexpr int64_t kVectorsInPlace = 96 / V::kWidth;

    const AttentionUnit<V, Cache> &unit;
    const CachedBlocks<V, Cache> blocks;
    const AttentionMemory<V, Cache> &memory;
    const int64_t B, D, num_rows, steps;

    explicit KeyScores(const AttentionUnit<V, Cache> &unit)
        : unit(unit),
          blocks(unit),
          memory(unit.memory),
          B(unit.B),
          D(unit.D),
          num_rows(unit.num_rows),
          steps(key_steps<Cache>(unit.D)) {}

    QUIRE_INLINE const float *query_of(int64_t row) const {
        return unit.run.row(unit.op.in[0], unit.tile.first_token + row / unit.group) +
               unit.head_of(row) * D;
    }

    // Scales the queries and turns them to [steps, R].
    void read_queries() {
        for (int64_t r = 0; r < num_rows; r++) {
            const float *from = query_of(r);
            const float factor =
                unit.op.query_rule ? query_factor(unit.op, unit.newest_of(r)) : 1.0f;
            const float scale = unit.op.scale * kLog2E * factor;
            if constexpr (Format::kPairs) {
                // Sums of products stay below 2^31.
                const float limit = D <= 512 ? 32767.0f : float(16909320 / D - 1);
                const float most = finite_max<V>(from, D);
                int32_t *codes = reinterpret_cast<int32_t *>(memory.panel);
                to_codes<V>(from, D, most, limit, codes);
                if (D % 2) codes[D] = 0;
                for (int64_t i = 0; i < steps; i++) {
                    const uint32_t low = uint16_t(codes[2 * i]), high = codes[2 * i + 1];
                    memory.queries[i * num_rows + r] = Query(low | high << 16);
                }
                memory.query_scales[r] = most / limit * scale;
                int32_t sum = 0;
                for (int64_t d = 0; d < D; d++) sum += codes[d];
                memory.query_sums[r] = float(sum) * memory.query_scales[r];
            } else {
                Query *to = memory.queries + r;
                for (int64_t d = 0; d < D; d++) to[d * num_rows] = from[d] * scale;
                memory.query_scales[r] = Format::kUnit;
            }
        }
    }

    template <int M, int N, class T>
    QUIRE_INLINE void scores_of_vectors(const T *const *keys, int64_t key_stride, int64_t row,
                                        int64_t vector, const T *const *ahead) {
        typename ScoreSteps<V, T>::Sum sums[M][N];
        score_tile<V, T, M, N>(memory.queries + row, num_rows, keys, key_stride, steps, ahead,
                               sums);
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) {
            float *to = memory.weights + (row + m) * kChunkRoom + vector * V::kWidth;
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                V::store(to + n * V::kWidth, score(sums[m][n], row + m, vector + n));
            }
        }
    }

    // A row's scores at a vector of positions, from sums of products.
    template <class Sum>
    QUIRE_INLINE typename V::Float score(Sum sum, int64_t row, int64_t vector) const {
        if constexpr (!Format::kScales) {
            return sum;
        } else {
            const float *scales = unit.now->key_scales[vector];
            const auto scale = V::mul(V::broadcast(memory.query_scales[row]), V::load(scales));
            if constexpr (!Format::kPairs) {
                return V::mul(sum, scale);
            } else if constexpr (!Format::kMinimums) {
                return V::mul(V::int_to_float(sum), scale);
            } else {
                const auto offset =
                    V::mul(V::broadcast(memory.query_sums[row]), V::load(scales + unit.minimums));
                return V::fma(V::int_to_float(sum), scale, offset);
            }
        }
    }

    // One group of rows meets keys as they lie in the cache.  The last tile overlaps the one before.
    template <int M, int N>
    void scores_in_place(int64_t row, int64_t from, int64_t to) {
        const auto tile = [&](auto count, int64_t v) {
            if (row == 0) blocks.fetch_scales(unit.now->value_scales[v]);
            scores_of_vectors<M, count.value>(unit.now->keys + v, B * Format::kKeyElements, row, v,
                                              row == 0 ? unit.now->values + v : nullptr);
        };
        if (to - from >= N) {
            for (int64_t v = from; v < to; v += N) tile(Count<N>(), smaller(v, to - N));
        } else {
            for (int64_t v = from; v < to; v++) tile(Count<1>(), v);
        }
    }

    // One of the N vectors of a panel [D, N] of keys.
    template <int N>
    void fill_key_panel(const Cache *from, int n) {
        float *to = memory.panel + n * V::kWidth, *end = to + D * N * V::kWidth;
        for (; to < end; to += N * V::kWidth, from += B) V::store(to, V::load(from));
    }

    // The same of pairs of codes, a panel [steps, N].
    template <int N>
    void widen_key_panel(const Code4 *from, Code8 *to) {
        const Code8 *end = to + steps * N * 2 * V::kWidth;
        for (; to < end; to += N * 2 * V::kWidth, from += B) V::widen_pairs(from, to);
    }

    // Several groups meet N vectors of positions, made float32 first, or codes of 8 bits.
    template <int N>
    void scores_through_panel(int64_t vector) {
        const float *keys[N];
        const Code8 *codes[N];
        for (int n = 0; n < N; n++) {
            blocks.fetch_values(vector + n);
            keys[n] = memory.panel + n * V::kWidth;
            Code8 *to = reinterpret_cast<Code8 *>(memory.panel) + n * 2 * V::kWidth;
            codes[n] = to;
            if constexpr (kWidensKeys<V, Cache>) widen_key_panel<N>(unit.now->keys[vector + n], to);
            if constexpr (!Format::kPairs) fill_key_panel<N>(unit.now->keys[vector + n], n);
        }
        const int64_t first = unit.now->start + vector * V::kWidth;
        for (int64_t i = 0; i < unit.num_groups; i++) {
            const RowGroup &rows = memory.groups[i];
            if (rows.newest < first || rows.oldest >= first + N * V::kWidth) continue;
            with_rows<kGroup>(rows.count, [&](auto count) {
                constexpr int M = decltype(count)::value;
                if constexpr (kWidensKeys<V, Cache>) {
                    scores_of_vectors<M, N>(codes, N * 2 * V::kWidth, rows.row, vector,
                                            static_cast<const Code8 *const *>(nullptr));
                } else if constexpr (Format::kPairs) {
                    scores_of_vectors<M, N>(unit.now->keys + vector, B * Format::kKeyElements,
                                            rows.row, vector,
                                            static_cast<const Cache *const *>(nullptr));
                } else {
                    scores_of_vectors<M, N>(keys, N * V::kWidth, rows.row, vector,
                                            static_cast<const float *const *>(nullptr));
                }
            });
        }
    }

    // Keys that came to the first-level cache for one group are still there for the other.
    void make_scores_in_place() {
        const int64_t step = unit.num_groups > 1 ? kVectorsInPlace : unit.now->to;
        for (int64_t from = unit.now->from; from < unit.now->to; from += step) {
            for (int64_t i = 0; i < unit.num_groups; i++) {
                const RowGroup &rows = memory.groups[i];
                with_rows<kGroup>(rows.count, [&](auto count) {
                    constexpr int M = decltype(count)::value;
                    constexpr int kNumVectors =
                        Format::kPairs ? kPairedVectors<M> : scored_vectors<V, M>();
                    scores_in_place<M, kNumVectors>(rows.row, from,
                                                    smaller(from + step, unit.now->to));
                });
            }
        }
    }

    void make_scores() {
        if (unit.num_groups <= kGroupsInPlace<V, Cache>) return make_scores_in_place();
        int64_t vector = unit.now->from;
        for (; vector + 2 <= unit.now->to; vector += 2) scores_through_panel<2>(vector);
        if (vector < unit.now->to) scores_through_panel<1>(vector);
    }
};

}  // namespace
}  // namespace quire
