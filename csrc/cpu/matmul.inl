// Matrix products: activations [M, K] in float32 times the transpose of weights [N, K] as stored.
//
// Every output element has one vector accumulator that walks K in order and one fixed tree that
// sums its lanes, whatever M is and however the work is cut.  So a row gives the same bits alone
// and in any batch.  What varies is only how many elements a tile computes together, to use each
// loaded number often.  Weights are read where the checkpoint was mapped, and multiplied as the
// policy P says: FloatProducts, or that of an instruction set which has products of narrower floats.
namespace quire {
namespace {

// A unit of work: weights that stay in the second-level cache while they meet all rows of a block.
constexpr int64_t kBlockCols = 24;  // weight rows

constexpr int kRowsOnce = 3;  // so few rows wait for the weights

constexpr int64_t kLineColumns = 64;  // weights of these are whole cache lines

constexpr int64_t kBytesAhead = 2048;  // of a row that is read alone

// Weights of which each group of columns has a scale.
template <class Weight>
constexpr bool kHasScales = false;
template <>
constexpr bool kHasScales<Float8> = true;

// Weights in any format, converted to float32 on the way, and activations in float32.
template <class V_, class Weight_>
struct FloatProducts {
    using V = V_;
    using Weight = Weight_;
    using Input = float;
    using Vector = typename V::Float;
    static constexpr int kWidth = V::kWidth;  // columns at once

    template <class T>
    static QUIRE_INLINE Vector load(const T *from) {
        return V::load(from);
    }
    static QUIRE_INLINE Vector load_once(const Weight *from) { return V::load_once(from); }
    template <class T>
    static QUIRE_INLINE Vector load_partial(const T *from, int64_t n) {
        return V::load_partial(from, n);
    }
    static QUIRE_INLINE void keep(Vector &x) { V::keep(x); }
    static QUIRE_INLINE Vector add(Vector x, Vector w, Vector sum) { return V::fma(x, w, sum); }
};

// Floats of 8 bits, read as what they are of kTinyUnit.  If that is much, inputs take 2^64 of it on
// and sums the rest: so inputs are below 2^64, and what is below 2^-93 of a scale may be lost.
template <class V_>
struct Float8Products : FloatProducts<V_, Float8> {
    using V = V_;
    using Vector = typename V::Float;
    static constexpr float kHalfUnit = 18446744073709551616.0f;  // 2^64
    static constexpr bool kRaises = V::kTinyUnit > kHalfUnit;
    static constexpr float kSumUnit = kRaises ? V::kTinyUnit / kHalfUnit : V::kTinyUnit;

    static QUIRE_INLINE Vector raise(Vector x) {
        return kRaises ? V::mul(x, V::broadcast(kHalfUnit)) : x;
    }
    static QUIRE_INLINE Vector load(const float *from) { return raise(V::load(from)); }
    static QUIRE_INLINE Vector load(const Float8 *from) { return V::load_tiny(from); }
    static QUIRE_INLINE Vector load_once(const Float8 *from) { return V::load_tiny(from); }
    static QUIRE_INLINE Vector load_partial(const float *from, int64_t n) {
        return raise(V::load_partial(from, n));
    }
    static QUIRE_INLINE Vector load_partial(const Float8 *from, int64_t n) {
        Float8 codes[V::kWidth] = {};
        memcpy(codes, from, size_t(n));
        return V::load_tiny(codes);
    }
};

// Columns of a tile: its sums, one row of weights and one vector of activations fill the registers.
// Where memory is the limit, fewer rows of weights at a time are faster, down to one long stream,
// if they are read fast enough: a sum waits for the one before, so it takes a load every few cycles.
template <class P>
constexpr int tile_cols(int rows) {
    const int room = (P::V::kRegisters - 1) / (rows + 1);
    const int load_bytes = P::kWidth * int(sizeof(typename P::Weight));
    if (rows <= kRowsOnce && load_bytes >= 64) return 1;
    if (rows == 1 && load_bytes == 16) return 2;
    return room < 4 ? room : 4;
}

template <class P, int M, int N>
struct Tile {
    using V = typename P::V;
    using Input = typename P::Input;
    using Weight = typename P::Weight;

    typename V::Float sums[M][N];

    QUIRE_INLINE void clear() {
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) {
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) sums[m][n] = V::zero();
        }
    }

    template <class LoadX, class LoadW>
    QUIRE_INLINE void add_products(LoadX load_x, LoadW load_w) {
        typename P::Vector w[N];
        QUIRE_UNROLL
        for (int n = 0; n < N; n++) w[n] = load_w(n);
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) {
            typename P::Vector x = load_x(m);
            P::keep(x);
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) sums[m][n] = P::add(x, w[n], sums[m][n]);
        }
    }

    // Adds the products of `depth` columns.  Meanwhile asks for as much memory from `next` on as
    // `asked` columns take, where weights of tiles to come lie: the hardware is late to notice each
    // of many short rows.
    QUIRE_INLINE void walk(const Input *x, int64_t x_stride, const Weight *w, int64_t w_stride,
                           int64_t depth, const Weight *next, int64_t asked) {
        const auto step = [&](int64_t k) {
            add_products([&](int m) { return P::load(x + m * x_stride + k); },
                         [&](int n) {
                             const Weight *from = w + n * w_stride + k;
                             return M <= kRowsOnce ? P::load_once(from) : P::load(from);
                         });
        };
        int64_t k = 0;
        if (asked) {
            // A request a step; a line's worth of float32 at once, else lines are asked for twice.
            constexpr int64_t kLine = 64 / sizeof(Weight);
            constexpr int64_t kLeast = sizeof(Weight) == 4 ? kLine : kLine / 4;
            constexpr int64_t kStride = P::kWidth < kLeast ? kLeast : P::kWidth;
            for (; k + kStride <= asked; k += kStride) {
                QUIRE_UNROLL
                for (int64_t i = 0; i < kStride * N; i += kLine)
                    QUIRE_PREFETCH_L2(next + k * N + i);
                QUIRE_UNROLL
                for (int64_t i = 0; i < kStride; i += P::kWidth) step(k + i);
            }
        }
        for (; k + P::kWidth <= depth; k += P::kWidth) step(k);
        if (k < depth) {
            add_products([&](int m) { return P::load_partial(x + m * x_stride + k, depth - k); },
                         [&](int n) { return P::load_partial(w + n * w_stride + k, depth - k); });
        }
    }

    // Adds another tile's sums, each column's times its scale.
    QUIRE_INLINE void add(const Tile &other, const float *scales, int64_t stride, float unit) {
        QUIRE_UNROLL
        for (int n = 0; n < N; n++) {
            const auto scale = V::broadcast(scales[n * stride] * unit);
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) sums[m][n] = V::fma(other.sums[m][n], scale, sums[m][n]);
        }
    }

    // Writes the elements: sums of lanes, plus the bias of their column unless it is null.
    QUIRE_INLINE void finish(const float *bias, float *out, int64_t out_stride) const {
        float totals[M * N];
        constexpr int kFours = M * N / 4 * 4;
        const auto element = [&](int i) { return sums[i / N][i % N]; };
        QUIRE_UNROLL
        for (int i = 0; i < kFours; i += 4) {
            V::sum4(element(i), element(i + 1), element(i + 2), element(i + 3), totals + i);
        }
        QUIRE_UNROLL
        for (int i = kFours; i < M * N; i++) totals[i] = V::sum(element(i));
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) {
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                const float total = totals[m * N + n];
                out[m * out_stride + n] = bias ? total + bias[n] : total;
            }
        }
    }
};

// One matrix product of a part: what every piece of it needs to know.
template <class P>
struct Product {
    const typename P::Input *x;  // [M, K]
    int64_t x_stride, depth;
    const typename P::Weight *w;  // [N, K]
    const float *bias;
    float *out;  // [M, N]
    int64_t out_stride;
    const quire_tuning *tuning;
    const float *scales;  // [N, groups], where weights have scales
    int64_t group, groups;
};

// The i-th of `tiles` tiles of M rows and N columns.  Together they ask for as many weights behind
// these as they read: little by little, since memory does not answer all at once.
template <class P, int M, int N>
void product_tile(const Product<P> &p, int64_t m, int64_t n, int64_t i, int64_t tiles) {
    Tile<P, M, N> tile;
    tile.clear();
    const typename P::Weight *w = p.w + n * p.depth;
    const int64_t ahead = N == 1 ? kBytesAhead : p.tuning->ahead_bytes;
    const bool asks = M >= p.tuning->ahead_rows;
    const typename P::Weight *next = w + ahead / int64_t(sizeof *w);
    const typename P::Input *x = p.x + m * p.x_stride;
    if constexpr (kHasScales<typename P::Weight>) {
        for (int64_t g = 0, k = 0; g < p.groups; g++, k += p.group) {
            const int64_t depth = smaller(p.group, p.depth - k);
            Tile<P, M, N> group;
            group.clear();
            group.walk(x + k, p.x_stride, w + k, p.depth, depth, next + k * N,
                       asks && i == 0 ? depth : 0);
            tile.add(group, p.scales + n * p.groups + g, p.groups, P::kSumUnit);
        }
    } else {
        const int64_t asked = ceil_div(p.depth, tiles * kLineColumns) * kLineColumns;
        tile.walk(x, p.x_stride, w, p.depth, p.depth, next + i * asked * N,
                  asks ? smaller(asked, p.depth) : 0);
    }
    tile.finish(p.bias ? p.bias + n : nullptr, p.out + m * p.out_stride + n, p.out_stride);
}

// The rows are cut into tiles of M rows, or one row less.
template <class P, int M>
void product_block(const Product<P> &p, int64_t num_rows, int64_t first, int64_t last) {
    constexpr int N = tile_cols<P>(M), kLess = M > 1 ? M - 1 : 1;
    const int64_t tiles = (num_rows + M - 1) / M;
    const auto each_tile = [&](auto full, auto less) {
        for (int64_t i = 0; i < tiles; i++) {
            const int64_t m = i * num_rows / tiles, rows = (i + 1) * num_rows / tiles - m;
            rows == M ? full(m, i) : less(m, i);
        }
    };
    int64_t n = first;
    for (; n + N <= last; n += N) {
        each_tile([&](int64_t m, int64_t i) { product_tile<P, M, N>(p, m, n, i, tiles); },
                  [&](int64_t m, int64_t i) { product_tile<P, kLess, N>(p, m, n, i, tiles); });
    }
    for (; n < last; n++) {
        each_tile([&](int64_t m, int64_t i) { product_tile<P, M, 1>(p, m, n, i, tiles); },
                  [&](int64_t m, int64_t i) { product_tile<P, kLess, 1>(p, m, n, i, tiles); });
    }
}

// Chooses the height of the tiles: at most R, and such that all are about as high.
template <class P, int R>
QUIRE_INLINE void multiply(const Product<P> &p, int64_t num_rows, int64_t height, int64_t first,
                           int64_t last) {
    if constexpr (R > 1) {
        if (height < R) return multiply<P, R - 1>(p, num_rows, height, first, last);
    }
    product_block<P, R>(p, num_rows, first, last);
}

// Units run over blocks of columns, then blocks of rows.
template <class P>
void float_part(const quire_op &op, const Run &run, int part, int64_t column, int64_t first_unit,
                int64_t last_unit) {
    using Input = typename P::Input;
    constexpr int kTileRows = P::V::kTileRows;
    const quire_matrix &matrix = op.parts[part];
    const float *scales = nullptr;
    int64_t groups = 0;
    if (kHasScales<typename P::Weight>) {
        scales = reinterpret_cast<const float *>(static_cast<const char *>(matrix.data) +
                                                 float8_bytes(matrix));
        groups = ceil_div(matrix.cols, matrix.group_size);
    }
    const quire_tuning &tuning = tuning_of(run, matrix);
    const int64_t most_rows = block_rows(tuning, matrix),
                  row_blocks = ceil_div(run.num_rows, most_rows);
    for (int64_t unit = first_unit; unit < last_unit; unit++) {
        const int64_t n = unit / row_blocks * kBlockCols, m = unit % row_blocks * most_rows;
        const Product<P> product = {reinterpret_cast<const Input *>(run.row(op.in[0], m)),
                                    op.in[0].stride * int64_t(sizeof(float) / sizeof(Input)),
                                    matrix.cols,
                                    static_cast<const typename P::Weight *>(matrix.data),
                                    op.vectors[part],
                                    run.row(op.out[0], m) + column,
                                    op.out[0].stride,
                                    &tuning,
                                    scales,
                                    matrix.group_size,
                                    groups};
        const int64_t num_rows = smaller(run.num_rows - m, most_rows);
        const int64_t height = ceil_div(num_rows, ceil_div(num_rows, tile_rows(tuning, kTileRows)));
        multiply<P, kTileRows>(product, num_rows, height, n, smaller(n + kBlockCols, matrix.rows));
    }
}

}  // namespace
}  // namespace quire
