// The weighted values of a chunk: the weights of a unit's rows times its values.
namespace quire {
namespace {

template <class V, class Cache>
struct ValueSums {
    using Format = KvFormat<Cache>;
    static constexpr int kGroup = kGroupRows<V>;
    static constexpr int64_t kPositionsInPlace = 128;

    const AttentionUnit<V, Cache> &unit;
    const CachedBlocks<V, Cache> blocks;
    const AttentionMemory<V, Cache> &memory;
    const int64_t B, D, num_rows, value_stride;

    explicit ValueSums(const AttentionUnit<V, Cache> &unit)
        : unit(unit),
          blocks(unit),
          memory(unit.memory),
          B(unit.B),
          D(unit.D),
          num_rows(unit.num_rows),
          value_stride(blocks.value_stride) {}

    // Asks for the keys of the next chunk, as many from d on as the values in hand are.
    struct NextKeys {
        const CachedBlocks<V, Cache> &blocks;
        int64_t d;
        bool asks;

        QUIRE_INLINE const char *operator()(int64_t p) const {
            const Cache *keys = asks ? blocks.next_keys(p) : nullptr;
            return keys ? reinterpret_cast<const char *>(keys + d / Format::kNumbersPerValue)
                        : nullptr;
        }
    };

    // N vectors from d on of the values that a group of rows sees; it may be less than one vector.
    template <int M, int N, bool Whole, class T, class Ahead>
    void values_of_group(const RowGroup &rows, const ValueRows<T> &values, int64_t d, float *sums,
                         int64_t from, int64_t to, Ahead ahead) {
        const int64_t a = larger(rows.common_oldest - unit.now->start, from);
        const int64_t b = smaller(rows.common_newest + 1 - unit.now->start, to);
        const auto one = [&](int64_t row, int64_t first, int64_t end) {
            if (first >= end) return;
            value_tile<V, 1, N, Whole>(memory.weights + row * kChunkRoom, values, d, D - d, first,
                                       end, sums + row * unit.P, unit.P, ahead);
        };
        const bool ragged = rows.oldest != rows.common_oldest || rows.newest != rows.common_newest;
        for (int64_t r = rows.row; ragged && r < rows.row + rows.count; r++) {
            one(r, larger(unit.first_of(r), from), smaller(a < b ? a : to, unit.end_of(r)));
        }
        if (a >= b) return;
        value_tile<V, M, N, Whole>(memory.weights + rows.row * kChunkRoom, values, d, D - d, a, b,
                                   sums + rows.row * unit.P, unit.P, ahead);
        for (int64_t r = rows.row; ragged && r < rows.row + rows.count; r++) {
            one(r, larger(b, unit.first_of(r)), smaller(unit.end_of(r), to));
        }
    }

    template <int M, int N>
    void values_in_place(const RowGroup &rows, int64_t d, int64_t from, int64_t to, float *sums) {
        const ValueRows<Cache> values = {unit.now->values, value_stride, B};
        const auto tile = [&](auto count, auto whole) {
            values_of_group<M, count.value, whole.value>(rows, values, d, sums + d, from, to,
                                                         NextKeys{blocks, d, rows.row == 0});
        };
        for (; d + N * V::kWidth <= D; d += N * V::kWidth) tile(Count<N>(), Count<true>());
        if constexpr (N > 1) {
            values_in_place<M, N == 3 ? 2 : N / 2>(rows, d, from, to, sums);
        } else if (d < D) {
            tile(Count<1>(), Count<false>());
        }
    }

    void add_values_in_place(float *sums) {
        const int64_t end = unit.now->to * V::kWidth;
        for (int64_t p = unit.now->from * V::kWidth; p < end; p += kPositionsInPlace) {
            for (int64_t i = 0; i < unit.num_groups; i++) {
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
            for (int64_t i = 0; i < W; i++, from += stride, to += 2 * W) {
                V::store(to, V::load(from));
                V::store(to + W, V::load(from + kElements));
            }
            return;
        }
        for (int64_t i = 0; i < W; i++, from += stride, to += 2 * W) {
            V::store(to, left >= W ? V::load(from) : V::load_partial(from, left));
            V::store(to + W, left > W ? V::load_partial(from + kElements, left - W) : V::zero());
        }
    }

    void values_through_panel(float *sums) {
        const float *panel = memory.panel;
        const ValueRows<float> values = {&panel, 2 * V::kWidth, kChunkRoom};
        for (int64_t d = 0; d < D; d += 2 * V::kWidth) {
            for (int64_t vector = unit.now->from; vector < unit.now->to; vector++) {
                const Cache *keys = d == 0 ? blocks.next_keys(vector * V::kWidth) : nullptr;
                if (keys) blocks.fetch(keys, value_stride * V::kWidth);
                fill_value_panel(unit.now->values[vector] + d / Format::kNumbersPerValue, d,
                                 memory.panel + vector * V::kWidth * 2 * V::kWidth);
            }
            for (int64_t i = 0; i < unit.num_groups; i++) {
                const RowGroup &rows = memory.groups[i];
                with_rows<kGroup>(rows.count, [&](auto count) {
                    values_of_group<decltype(count)::value, 2, true>(rows, values, 0, sums + d, 0,
                                                                     unit.C, NothingAhead());
                });
            }
        }
    }

    // Of the values of all positions, kSlab numbers from d on: in pairs of positions.
    static constexpr int64_t kSlab = 64;
    void pair_values(int64_t d, Code8 *to) {
        for (int64_t vector = unit.now->from; vector < unit.now->to; vector++) {
            const Cache *from = unit.now->values[vector];
            Code8 *pair = to + vector * V::kWidth * kSlab;
            for (int64_t i = 0; i < V::kWidth;
                 i += 2, from += 2 * value_stride, pair += 2 * kSlab) {
                for (int64_t slab = 0; slab < smaller(kSlab, unit.P - d); slab += 32) {
                    const Cache *first = from + (d + slab) / Format::kNumbersPerValue;
                    V::pair_values(first, first + value_stride, pair + 2 * slab);
                }
            }
        }
    }

    // Integer sums over all positions that any row of a group sees: others have weights of 0.
    template <int M, int N>
    void pair_sums_of_group(int64_t group, const Code8 *values, int64_t d, int64_t dims,
                            float *out) {
        const RowGroup &rows = memory.groups[group];
        const int64_t start = unit.now->start;
        const int64_t from = larger((rows.oldest - start) / V::kWidth, unit.now->from);
        const int64_t to =
            smaller(ceil_div(larger(rows.newest + 1 - start, 0), V::kWidth), unit.now->to);
        const int32_t *weights = memory.weight_pairs + rows.row * kChunkRoom / 2;
        for (int64_t i = 0; i < dims; i += N * V::kWidth) {
            // This tile's share of the keys of the next chunk.
            const int64_t before = group * unit.P + d + i, all = unit.num_groups * unit.P;
            const int64_t bytes = value_stride * V::kWidth;
            const int64_t first = round_up(bytes * before / all, 64);
            const int64_t last = round_up(bytes * (before + N * V::kWidth) / all, 64);
            const auto ahead = [&](int64_t vector) QUIRE_INLINE_LAMBDA {
                if (first == last) return;
                const Cache *keys = blocks.next_keys(vector * V::kWidth);
                if (!keys) return;
                blocks.fetch(keys + first, last - first);
                if (first == 0) blocks.fetch_scales(unit.next->key_scales[vector]);
            };
            typename V::Int sums[M][N];
            pair_value_tile<V, M, N>(weights, values + 2 * i, 2 * kSlab, from, to, ahead, sums);
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) {
                const int64_t row = rows.row + m;
                const auto factor = V::broadcast(memory.weight_units[row]);
                const auto minimum = V::broadcast(memory.weighted_minimums[row]);
                QUIRE_UNROLL
                for (int n = 0; n < N; n++) {
                    V::store(out + row * unit.P + i + n * V::kWidth,
                             V::fma(V::int_to_float(sums[m][n]), factor, minimum));
                }
            }
        }
    }

    void add_values_in_pairs(float *sums) {
        Code8 *values = reinterpret_cast<Code8 *>(memory.panel);
        for (int64_t d = 0; d < D; d += kSlab) {
            pair_values(d, values);
            for (int64_t i = 0; i < unit.num_groups; i++) {
                with_rows<kGroup>(memory.groups[i].count, [&](auto count) {
                    constexpr int M = decltype(count)::value;
                    constexpr int N = kPairedVectors<M> < 4 ? kPairedVectors<M> : 4;
                    pair_sums_of_group<M, N>(i, values, d, smaller(kSlab, unit.P - d), sums + d);
                });
            }
        }
    }

    void add_values(const Partial &out) {
        if constexpr (kPairsOfValues<V, Cache>) return add_values_in_pairs(out.sums);
        for (int64_t r = 0; r < num_rows; r++) {
            for (int64_t d = 0; d < unit.P; d++)
                out.sums[r * unit.P + d] = memory.weighted_minimums[r];
        }
        if (unit.num_groups > kGroupsInPlace<V, Cache>) return values_through_panel(out.sums);
        add_values_in_place(out.sums);
    }
};

}  // namespace
}  // namespace quire
