// Attention over paged keys and values, one pass over them.
//
// A unit is a kv head of a span: the queries of neighbouring tokens of one request, for the query
// heads of that kv head ("rows"), use each loaded key and value together.  Positions are walked in
// chunks whose borders are fixed multiples of kChunk.  Each chunk gives a partial result by itself,
// and these are merged from the oldest on: so it does not matter who computed them, nor which rows
// share a tile.  A row's weights and values run over the positions it sees and no others.
namespace quire {
namespace {

constexpr float kLowest = -3.4028234663852886e38f;  // below every score, yet a number to subtract

template <class V, class Cache>
struct AttentionUnit {
    using Format = KvFormat<Cache>;
    static constexpr int kGroup = kGroupRows<V>;
    static constexpr int64_t kGroupsInPlace = 4;  // more go through a panel
    static constexpr int64_t kVectorsInPlace = 96 / V::kWidth;
    static constexpr int64_t kPositionsInPlace = 128;
    using Query = typename ScoreSteps<V, Cache>::Query;

    const quire_op &op;
    const Run &run;
    const QueryTile &tile;
    const int64_t kv_head, B, D, P, C, group, num_rows, steps, value_stride;
    const int64_t minimums;  // floats from a scale to its minimum
    const bool bends;
    AttentionMemory<V, Cache> memory;
    Partial all;
    Chunk<Cache> *now, *next;
    int64_t num_groups;

    AttentionUnit(const quire_op &op, const Run &run, int64_t tile, int64_t kv_head, char *scratch)
        : op(op),
          run(run),
          tile(run.tiles[tile]),
          kv_head(kv_head),
          B(run.program->block_tokens),
          D(op.head_dim),
          P(padded_dims(D)),
          C(chunk_positions(B)),
          group(op.heads / op.kv_heads),
          num_rows(this->tile.num_tokens * group),
          steps(key_steps<Cache>(D)),
          value_stride(value_elements<Cache>(D)),
          minimums(2 * op.kv_heads * B),
          bends(op.cap > 0 || op.vectors[1]),
          memory(scratch, num_rows, D),
          all(memory.all, num_rows, P),
          now(memory.chunks),
          next(memory.chunks + 1) {
        for (int64_t i = 0; i < num_rows * P; i++) all.sums[i] = 0.0f;
        const float *sinks = op.vectors[0];
        for (int64_t r = 0; r < num_rows; r++) {
            all.maxima[r] = kLowest, all.totals[r] = 0.0f;
            // A sink has a weight and no value.
            if (sinks) all.maxima[r] = sinks[head_of(r)] * kLog2E, all.totals[r] = 1.0f;
            const quire_step &step = *run.step;
            const int64_t position = step.positions[this->tile.first_token + r / group];
            const int64_t last = step.query_start[this->tile.request + 1] - 1;
            memory.newest[r] = op.bidirectional ? step.positions[last] : position;
            memory.oldest[r] = oldest_seen(op, position);
        }
    }

    QUIRE_INLINE int64_t head_of(int64_t row) const { return kv_head * group + row % group; }
    QUIRE_INLINE int64_t newest_of(int64_t row) const { return memory.newest[row]; }
    QUIRE_INLINE int64_t oldest_of(int64_t row) const { return memory.oldest[row]; }
    // The positions of the chunk in hand that a row sees, from its start: [first, end).
    QUIRE_INLINE int64_t first_of(int64_t row) const {
        return smaller(larger(oldest_of(row) - now->start, 0), C);
    }
    QUIRE_INLINE int64_t end_of(int64_t row) const {
        return smaller(larger(newest_of(row) + 1 - now->start, 0), C);
    }

    // Rows in groups of nearly the same size.
    void make_groups() {
        num_groups = ceil_div(num_rows, kGroup);
        int64_t row = 0;
        for (int64_t i = 0; i < num_groups; i++) {
            const int64_t count = (num_rows - row) / (num_groups - i), last = row + count - 1;
            memory.groups[i] = {
                row, count, oldest_of(row), newest_of(last), oldest_of(last), newest_of(row)};
            row += count;
        }
    }

    QUIRE_INLINE const float *query(int64_t row) const {
        return run.row(op.in[0], tile.first_token + row / group) + head_of(row) * D;
    }

    // Scales the queries and turns them to [steps, R].
    void read_queries() {
        for (int64_t r = 0; r < num_rows; r++) {
            const float *from = query(r);
            const float factor = op.query_rule ? query_factor(op, newest_of(r)) : 1.0f;
            const float scale = op.scale * kLog2E * factor;
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

    // Finds the blocks of a chunk that rows see.
    void find(int64_t index, Chunk<Cache> *chunk) const {
        const int64_t start = index * C;
        const int64_t oldest = oldest_of(0), newest = newest_of(num_rows - 1);
        const int64_t first = larger(oldest, start) / B, end = smaller(newest + 1, start + C);
        const int64_t last = ceil_div(end, B);
        chunk->start = start;
        chunk->from = (first * B - start) / V::kWidth;
        chunk->to = larger((last * B - start) / V::kWidth, chunk->from);
        const quire_program &program = *run.program;
        const int32_t *table =
            run.step->block_tables + int64_t(tile.request) * run.step->block_table_stride;
        int64_t vector = chunk->from;
        for (int64_t block = first; block < last; block++) {
            const HeadOfBlock<Cache> head =
                head_of_block<Cache>(program.kv + program.kv_layer_offset[op.layer] +
                                         table[block] * program.kv_block_bytes[op.layer],
                                     B, op.kv_heads, D, kv_head);
            for (int64_t slot = 0; slot < B; slot += V::kWidth, vector++) {
                chunk->keys[vector] = head.keys + slot * Format::kKeyElements;
                chunk->values[vector] = head.values + slot * value_stride;
                chunk->key_scales[vector] = head.key_scales + slot;
                chunk->value_scales[vector] = head.value_scales + slot;
            }
        }
    }

    // Ask for a vector's share of its block's memory.
    QUIRE_INLINE void fetch(const Cache *from, int64_t numbers) const {
        for (int64_t i = 0; i < numbers; i += 64 / sizeof(Cache)) QUIRE_PREFETCH_L2(from + i);
    }
    QUIRE_INLINE void fetch_values(int64_t vector) const {
        fetch(now->values[vector], value_stride * V::kWidth);
        if constexpr (Format::kScales) QUIRE_PREFETCH_L2(now->value_scales[vector]);
    }
    // Where position p's share of the keys of the next chunk lies, or null.
    QUIRE_INLINE const Cache *next_keys(int64_t p) const {
        const int64_t vector = p / V::kWidth, slot = p % B;
        if (vector < next->from || vector >= next->to) return nullptr;
        return next->keys[vector] - slot / V::kWidth * V::kWidth * Format::kKeyElements +
               slot * value_stride;
    }

    // --- scores

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
            const float *scales = now->key_scales[vector];
            const auto scale = V::mul(V::broadcast(memory.query_scales[row]), V::load(scales));
            if constexpr (!Format::kPairs) {
                return V::mul(sum, scale);
            } else if constexpr (!Format::kMinimums) {
                return V::mul(V::int_to_float(sum), scale);
            } else {
                const auto offset =
                    V::mul(V::broadcast(memory.query_sums[row]), V::load(scales + minimums));
                return V::fma(V::int_to_float(sum), scale, offset);
            }
        }
    }

    // One group of rows meets keys as they lie in the cache.  The last tile overlaps the one before.
    template <int M, int N>
    void scores_in_place(int64_t row, int64_t from, int64_t to) {
        const auto tile = [&](auto count, int64_t v) {
            scores_of_vectors<M, count.value>(now->keys + v, B * Format::kKeyElements, row, v,
                                              row == 0 ? now->values + v : nullptr);
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

    // Several groups meet N vectors of positions, made float32 first.
    template <int N>
    void scores_through_panel(int64_t vector) {
        const float *keys[N];
        for (int n = 0; n < N; n++) {
            fetch_values(vector + n);
            keys[n] = memory.panel + n * V::kWidth;
            if constexpr (!Format::kPairs) fill_key_panel<N>(now->keys[vector + n], n);
        }
        const int64_t first = now->start + vector * V::kWidth;
        for (int64_t i = 0; i < num_groups; i++) {
            const RowGroup &rows = memory.groups[i];
            if (rows.newest < first || rows.oldest >= first + N * V::kWidth) continue;
            with_rows<kGroup>(rows.count, [&](auto count) {
                constexpr int M = decltype(count)::value;
                if constexpr (Format::kPairs) {
                    scores_of_vectors<M, N>(now->keys + vector, B * Format::kKeyElements, rows.row,
                                            vector, static_cast<const Cache *const *>(nullptr));
                } else {
                    scores_of_vectors<M, N>(keys, N * V::kWidth, rows.row, vector,
                                            static_cast<const float *const *>(nullptr));
                }
            });
        }
    }

    // Keys that came to the first-level cache for one group are still there for the other.
    void make_scores_in_place() {
        const int64_t step = num_groups > 1 ? kVectorsInPlace : now->to;
        for (int64_t from = now->from; from < now->to; from += step) {
            for (int64_t i = 0; i < num_groups; i++) {
                const RowGroup &rows = memory.groups[i];
                with_rows<kGroup>(rows.count, [&](auto count) {
                    constexpr int M = decltype(count)::value;
                    // Integer sums wait for nothing; products need a register of their own.
                    constexpr int kNumVectors =
                        Format::kPairs ? (M > 2 ? 2 : 8 / M) : scored_vectors<V, M>();
                    scores_in_place<M, kNumVectors>(rows.row, from, smaller(from + step, now->to));
                });
            }
        }
    }

    void make_scores() {
        if (num_groups <= kGroupsInPlace) return make_scores_in_place();
        int64_t vector = now->from;
        for (; vector + 2 <= now->to; vector += 2) scores_through_panel<2>(vector);
        if (vector < now->to) scores_through_panel<1>(vector);
    }

    // --- softmax

    // The numbers from first on and before end of a vector; zeros in place of the others.
    static QUIRE_INLINE typename V::Float seen_of(const float *numbers, int64_t first,
                                                  int64_t end) {
        if (first <= 0 && end >= V::kWidth) return V::load(numbers);
        float seen[V::kWidth];
        for (int64_t i = 0; i < V::kWidth; i++) seen[i] = i >= first && i < end ? numbers[i] : 0.0f;
        return V::load(seen);
    }

    // Turns one row's scores into weights, which take in the scales of the values.
    void make_weights(int64_t row, const Partial &out) {
        float *score = memory.weights + row * kChunkRoom;
        const int64_t first = first_of(row), end = end_of(row);
        out.maxima[row] = kLowest, out.totals[row] = 0.0f, memory.offsets[row] = 0.0f;
        if (first >= end) return;
        const int64_t from = first / V::kWidth * V::kWidth, to = round_up(end, V::kWidth);
        if (bends) bend_scores<V>(op, head_of(row), newest_of(row) - now->start, score, from, to);
        for (int64_t p = from; p < first; p++) score[p] = -INFINITY;
        for (int64_t p = end; p < to; p++) score[p] = -INFINITY;

        auto top = V::broadcast(kLowest);
        for (int64_t p = from; p < to; p += V::kWidth) top = V::max(V::load(score + p), top);
        const auto shift = V::broadcast(V::max_lane(top));
        auto total = V::zero(), offset = V::zero();
        for (int64_t p = from; p < to; p += V::kWidth) {
            auto weight = vector_exp2<V>(V::sub(V::load(score + p), shift));
            total = V::add(total, weight);
            if constexpr (Format::kMinimums) {
                const float *numbers = now->value_scales[p / V::kWidth] + minimums;
                offset = V::fma(weight, seen_of(numbers, first - p, end - p), offset);
            }
            if constexpr (Format::kScales) {
                const auto scale = V::load(now->value_scales[p / V::kWidth]);
                weight = V::mul(weight, V::mul(scale, V::broadcast(Format::kUnit)));
            }
            V::store(score + p, weight);
        }
        if constexpr (Format::kMinimums) memory.offsets[row] = V::sum(offset);
        out.maxima[row] = V::max_lane(top);
        out.totals[row] = V::sum(total);
    }

    // --- values

    // Asks for the keys of the next chunk, as many from d on as the values in hand are.
    struct NextKeys {
        const AttentionUnit &unit;
        int64_t d;
        bool asks;

        QUIRE_INLINE const char *operator()(int64_t p) const {
            const Cache *keys = asks ? unit.next_keys(p) : nullptr;
            return keys ? reinterpret_cast<const char *>(keys + d / Format::kNumbersPerValue)
                        : nullptr;
        }
    };

    // N vectors from d on of the values that a group of rows sees; it may be less than one vector.
    template <int M, int N, bool Whole, class T, class Ahead>
    void values_of_group(const RowGroup &rows, const ValueRows<T> &values, int64_t d, float *sums,
                         int64_t from, int64_t to, Ahead ahead) {
        const int64_t a = larger(rows.common_oldest - now->start, from);
        const int64_t b = smaller(rows.common_newest + 1 - now->start, to);
        const auto one = [&](int64_t row, int64_t first, int64_t end) {
            if (first >= end) return;
            value_tile<V, 1, N, Whole>(memory.weights + row * kChunkRoom, values, d, D - d, first,
                                       end, sums + row * P, P, ahead);
        };
        const bool ragged = rows.oldest != rows.common_oldest || rows.newest != rows.common_newest;
        for (int64_t r = rows.row; ragged && r < rows.row + rows.count; r++) {
            one(r, larger(first_of(r), from), smaller(a < b ? a : to, end_of(r)));
        }
        if (a >= b) return;
        value_tile<V, M, N, Whole>(memory.weights + rows.row * kChunkRoom, values, d, D - d, a, b,
                                   sums + rows.row * P, P, ahead);
        for (int64_t r = rows.row; ragged && r < rows.row + rows.count; r++) {
            one(r, larger(b, first_of(r)), smaller(end_of(r), to));
        }
    }

    template <int M, int N>
    void values_in_place(const RowGroup &rows, int64_t d, int64_t from, int64_t to, float *sums) {
        const ValueRows<Cache> values = {now->values, value_stride, B};
        const auto tile = [&](auto count, auto whole) {
            values_of_group<M, count.value, whole.value>(rows, values, d, sums + d, from, to,
                                                         NextKeys{*this, d, rows.row == 0});
        };
        for (; d + N * V::kWidth <= D; d += N * V::kWidth) tile(Count<N>(), Count<true>());
        if constexpr (N > 1) {
            values_in_place<M, N == 3 ? 2 : N / 2>(rows, d, from, to, sums);
        } else if (d < D) {
            tile(Count<1>(), Count<false>());
        }
    }

    void add_values_in_place(float *sums) {
        const int64_t end = now->to * V::kWidth;
        for (int64_t p = now->from * V::kWidth; p < end; p += kPositionsInPlace) {
            for (int64_t i = 0; i < num_groups; i++) {
                const RowGroup &rows = memory.groups[i];
                with_rows<kGroup>(rows.count, [&](auto count) {
                    constexpr int M = decltype(count)::value, most = vectors_beside<V, M>();
                    constexpr int N = most >= 8 ? 8 : most >= 4 ? 4 : most;
                    values_in_place<M, N>(rows, 0, p, smaller(p + kPositionsInPlace, end), sums);
                });
            }
        }
    }

    // Two vectors from d on of the values of kWidth positions; behind D stand zeros.
    void fill_value_panel(const Cache *from, int64_t d, float *to) {
        constexpr int64_t W = V::kWidth, kElements = W / Format::kNumbersPerValue;
        const int64_t left = D - d, stride = value_stride;
        if (left >= 2 * W) {
            for (int64_t slot = 0; slot < W; slot++, from += stride, to += 2 * W) {
                V::store(to, V::load(from));
                V::store(to + W, V::load(from + kElements));
            }
            return;
        }
        for (int64_t slot = 0; slot < W; slot++, from += stride, to += 2 * W) {
            V::store(to, left >= W ? V::load(from) : V::load_partial(from, left));
            V::store(to + W, left > W ? V::load_partial(from + kElements, left - W) : V::zero());
        }
    }

    void values_through_panel(float *sums) {
        const float *panel = memory.panel;
        const ValueRows<float> values = {&panel, 2 * V::kWidth, kChunkRoom};
        for (int64_t d = 0; d < D; d += 2 * V::kWidth) {
            for (int64_t vector = now->from; vector < now->to; vector++) {
                const Cache *keys = d == 0 ? next_keys(vector * V::kWidth) : nullptr;
                if (keys) fetch(keys, value_stride * V::kWidth);
                fill_value_panel(now->values[vector] + d / Format::kNumbersPerValue, d,
                                 memory.panel + vector * V::kWidth * 2 * V::kWidth);
            }
            for (int64_t i = 0; i < num_groups; i++) {
                const RowGroup &rows = memory.groups[i];
                with_rows<kGroup>(rows.count, [&](auto count) {
                    values_of_group<decltype(count)::value, 2, true>(rows, values, 0, sums + d, 0,
                                                                     C, NothingAhead());
                });
            }
        }
    }

    void add_values(const Partial &out) {
        for (int64_t r = 0; r < num_rows; r++) {
            for (int64_t d = 0; d < P; d++) out.sums[r * P + d] = memory.offsets[r];
        }
        if (num_groups > kGroupsInPlace) return values_through_panel(out.sums);
        add_values_in_place(out.sums);
    }

    // --- from chunks to the result

    QUIRE_INLINE Partial partial(int64_t chunk) const {
        if (tile.partials < 0) return Partial(memory.own, num_rows, P);
        const int64_t index = kv_head * tile.num_chunks + chunk - tile.first_chunk;
        return Partial(run.partials + tile.partials + index * partial_floats(num_rows, D), num_rows,
                       P);
    }

    // Takes in the partial result of a chunk, for the rows that see any of it.
    void merge(int64_t chunk) {
        const Partial part = partial(chunk);
        for (int64_t r = 0; r < num_rows; r++) {
            if (newest_of(r) < chunk * C || oldest_of(r) >= (chunk + 1) * C) continue;
            const float before = all.maxima[r],
                        maximum = before > part.maxima[r] ? before : part.maxima[r];
            float factors[V::kWidth] = {before - maximum, part.maxima[r] - maximum};
            V::store(factors, vector_exp2<V>(V::load(factors)));
            const auto old = V::broadcast(factors[0]), fresh = V::broadcast(factors[1]);
            float *to = all.sums + r * P;
            const float *from = part.sums + r * P;
            for (int64_t d = 0; d < P; d += V::kWidth) {
                V::store(to + d, V::fma(fresh, V::load(from + d), V::mul(old, V::load(to + d))));
            }
            all.totals[r] = all.totals[r] * factors[0] + part.totals[r] * factors[1];
            all.maxima[r] = maximum;
        }
    }

    void finish() {
        for (int64_t r = 0; r < num_rows; r++) {
            float *to = run.row(op.out[0], tile.first_token + r / group) + head_of(r) * D;
            const float *from = all.sums + r * P;
            const auto factor = V::broadcast(1.0f / all.totals[r]);
            for_each_vector<V>(
                D, [&](auto load, auto store) { store(to, V::mul(load(from), factor)); });
        }
    }

    void attend(int64_t first, int64_t count) {
        make_groups();
        read_queries();
        find(first, now);
        for (int64_t chunk = first; chunk < first + count; chunk++) {
            if (chunk + 1 < first + count) {
                find(chunk + 1, next);
            } else {
                next->from = next->to = 0;
            }
            const Partial out = partial(chunk);
            make_scores();
            for (int64_t r = 0; r < num_rows; r++) make_weights(r, out);
            add_values(out);
            if (tile.partials < 0) merge(chunk);
            Chunk<Cache> *done = now;
            now = next;
            next = done;
        }
        if (tile.partials < 0) finish();
    }

    void merge_all() {
        for (int64_t i = 0; i < tile.num_chunks; i++) merge(tile.first_chunk + i);
        finish();
    }
};

template <class V>
size_t attention_scratch_bytes(const quire_op &op, const Run &run) {
    const int64_t rows = run.tile_tokens * (op.heads / op.kv_heads);
    char *const start = reinterpret_cast<char *>(uintptr_t(64));  // any aligned address
    return size_t(AttentionMemory<V, Code8>(start, rows, op.head_dim).next - start);
}

template <class V, class Cache>
void attention_as(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
        const KeySpan &span = run.spans[i % run.num_spans];
        AttentionUnit<V, Cache> unit(op, run, span.tile, i / run.num_spans, scratch);
        unit.attend(span.first_chunk, span.num_chunks);
    }
}

template <class V>
void attention(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    switch (run.program->kv_dtype) {
        case QUIRE_KV_F32:
            return attention_as<V, float>(op, run, scratch, first, last);
        case QUIRE_KV_F16:
            return attention_as<V, Half>(op, run, scratch, first, last);
        case QUIRE_KV_BF16:
            return attention_as<V, BFloat16>(op, run, scratch, first, last);
        case QUIRE_KV_INT8:
            return attention_as<V, Code8>(op, run, scratch, first, last);
        case QUIRE_KV_FLOAT8:
            return attention_as<V, Float8>(op, run, scratch, first, last);
        default:
            return attention_as<V, Code4>(op, run, scratch, first, last);
    }
}

// The second half of attention for tiles with several spans; the cache's format is past.
template <class V>
void merge_attention(const quire_op &op, const Run &run, char *scratch, int64_t first,
                     int64_t last) {
    for (int64_t i = first; i < last; i++) {
        const int32_t tile = run.split_tiles[i % run.num_split_tiles].tile;
        AttentionUnit<V, float>(op, run, tile, i / run.num_split_tiles, scratch).merge_all();
    }
}

}  // namespace
}  // namespace quire
