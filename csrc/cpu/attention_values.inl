// Weighted values: a few rows of weights times the values of a range of positions.
namespace quire {
namespace {

// Where values lie: those of position p in row p % run, `stride` elements each, of rows[p / kWidth],
// for p a multiple of run, itself one of kWidth.
template <class Cache>
struct ValueRows {
    const Cache *const *rows;
    int64_t stride, run;
};

// Nothing is to be asked for on the way.
struct NothingAhead {
    const char *operator()(int64_t) const { return nullptr; }
};

// sums[m][d] += weights[m][p] * value[p][d] for the positions p in [from, to), in order, and N
// vectors of d (`dims` < kWidth numbers in a single one that is not whole).  ahead(p), unless it is
// null, is where as much memory lies as the values from p to the end of their run take; it is asked
// for on the way.  One copy of each serves all who call it: there are many, and each is long.
template <class V, int M, int N, bool Whole, class Cache, class Ahead>
QUIRE_NOINLINE void value_tile(const float *weights, const ValueRows<Cache> &values, int64_t d,
                               int64_t dims, int64_t from, int64_t to, float *sums,
                               int64_t sums_stride, Ahead ahead) {
    typename V::Float out[M][N];
    QUIRE_UNROLL
    for (int m = 0; m < M; m++) {
        QUIRE_UNROLL
        for (int n = 0; n < N; n++) {
            const float *sum = sums + m * sums_stride + n * V::kWidth;
            out[m][n] = Whole ? V::load(sum) : V::load_partial(sum, dims);
        }
    }
    for (int64_t slot = from % values.run; from < to; slot = 0) {
        const int64_t count = smaller(values.run - slot, to - from);
        constexpr int64_t kPer = KvFormat<Cache>::kNumbersPerValue;
        const Cache *value =
            values.rows[(from - slot) / V::kWidth] + slot * values.stride + d / kPer;
        const float *weight = weights + from;
        const char *line = ahead(from);
        for (int64_t i = 0; i < count; i++, value += values.stride, weight++) {
            if (line) {
                QUIRE_UNROLL
                for (size_t b = 0; b < N * V::kWidth / kPer * sizeof(Cache); b += 64) {
                    QUIRE_PREFETCH_L2(line + b);
                }
                line += values.stride * sizeof(Cache);
            }
            const auto load = [&](int n) QUIRE_INLINE_LAMBDA {
                const Cache *numbers = value + n * V::kWidth / kPer;
                return Whole ? V::load(numbers) : V::load_partial(numbers, dims);
            };
            // The side with fewer vectors keeps its registers, the other needs a single one.
            if constexpr (M < N) {
                typename V::Float w[M];
                QUIRE_UNROLL
                for (int m = 0; m < M; m++) w[m] = V::broadcast(weight[m * kChunkRoom]);
                QUIRE_UNROLL
                for (int n = 0; n < N; n++) {
                    const typename V::Float v = load(n);
                    QUIRE_UNROLL
                    for (int m = 0; m < M; m++) out[m][n] = V::fma(w[m], v, out[m][n]);
                }
            } else {
                typename V::Float v[N];
                QUIRE_UNROLL
                for (int n = 0; n < N; n++) v[n] = load(n);
                QUIRE_UNROLL
                for (int m = 0; m < M; m++) {
                    const typename V::Float w = V::broadcast(weight[m * kChunkRoom]);
                    QUIRE_UNROLL
                    for (int n = 0; n < N; n++) out[m][n] = V::fma(w, v[n], out[m][n]);
                }
            }
        }
        from += count;
    }
    QUIRE_UNROLL
    for (int m = 0; m < M; m++) {
        QUIRE_UNROLL
        for (int n = 0; n < N; n++) {
            float *sum = sums + m * sums_stride + n * V::kWidth;
            if constexpr (Whole) {
                V::store(sum, out[m][n]);
            } else {
                V::store_partial(sum, out[m][n], dims);  // another thread may own what lies behind
            }
        }
    }
}

// sums[m][d] = the sum over pairs of positions of weights[m] times values, exact; those of vector v of
// positions are values [kWidth / 2, stride] from row v * kWidth / 2 on.  ahead(v) asks for memory.
template <class V, int M, int N, class Ahead>
QUIRE_INLINE void pair_value_tile(const int32_t *weights, const Code8 *values, int64_t stride,
                                  int64_t from, int64_t to, Ahead ahead,
                                  typename V::Int (&sums)[M][N]) {
    constexpr int64_t kPairs = V::kWidth / 2;
    QUIRE_UNROLL
    for (int m = 0; m < M; m++) {
        QUIRE_UNROLL
        for (int n = 0; n < N; n++) sums[m][n] = V::int_zero();
    }
    for (int64_t vector = from; vector < to; vector++) {
        ahead(vector);
        const int32_t *weight = weights + vector * kPairs;
        const Code8 *value = values + vector * kPairs * stride;
        QUIRE_UNROLL
        for (int64_t i = 0; i < kPairs; i++) {
            typename V::Int v[N];
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                v[n] = V::load_pairs(value + i * stride + n * 2 * V::kWidth);
            }
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) {
                const auto w = V::broadcast_pair(weight[m * kChunkRoom / 2 + i]);
                QUIRE_UNROLL
                for (int n = 0; n < N; n++) {
                    sums[m][n] = V::add_pair_products(w, v[n], sums[m][n]);
                }
            }
        }
    }
}

}  // namespace
}  // namespace quire
