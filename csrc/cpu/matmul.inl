// Matrix products: activations [M, K] in float32 times the transpose of weights [N, K] as stored.
//
// Every output element has one vector accumulator that walks K in order and one fixed tree that
// sums its lanes, whatever M is and however the work is cut.  So a row gives the same bits alone
// and in any batch.  What varies is only how many elements a tile computes together, to use each
// loaded number often.  Weights are read where the checkpoint was mapped and converted to float32
// on the way.
namespace quire {
namespace {

// A unit of work: weights that stay in the second-level cache while they meet all rows of a block.
constexpr int64_t kBlockCols = 24;  // weight rows
constexpr int64_t kBlockRows = 64;  // activation rows

constexpr int64_t kTilesAhead = 2;  // whose weights are asked for: one is too late for short rows

template <class V, int M, int N>
struct Tile {
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
        typename V::Float x[M];
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) x[m] = load_x(m);
        QUIRE_UNROLL
        for (int n = 0; n < N; n++) {
            const typename V::Float w = load_w(n);
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) sums[m][n] = V::fma(x[m], w, sums[m][n]);
        }
    }

    // Adds the products of `depth` columns.  Meanwhile asks for as much memory from `next` on,
    // where the next tile's weights lie: the hardware is late to notice each of many short rows.
    template <class Weight>
    QUIRE_INLINE void walk(const float *x, int64_t x_stride, const Weight *w, int64_t w_stride,
                           int64_t depth, const Weight *next = nullptr) {
        const auto step = [&](int64_t k) {
            add_products([&](int m) { return V::load(x + m * x_stride + k); },
                         [&](int n) { return V::load(w + n * w_stride + k); });
        };
        int64_t k = 0;
        if (next) {
            constexpr int64_t kLine = 64 / sizeof(Weight);
            for (; k + kLine <= depth; k += kLine, next += N * kLine) {
                QUIRE_UNROLL
                for (int n = 0; n < N; n++) QUIRE_PREFETCH_L2(next + n * kLine);
                QUIRE_UNROLL
                for (int64_t i = 0; i < kLine; i += V::kWidth) step(k + i);
            }
        }
        for (; k + V::kWidth <= depth; k += V::kWidth) step(k);
        if (k < depth) {
            add_products([&](int m) { return V::load_partial(x + m * x_stride + k, depth - k); },
                         [&](int n) { return V::load_partial(w + n * w_stride + k, depth - k); });
        }
    }

    // Writes the elements: sums of lanes, plus the bias of their column unless it is null.
    QUIRE_INLINE void finish(const float *bias, float *out, int64_t out_stride) const {
        QUIRE_UNROLL
        for (int n = 0; n < N; n++) {
            float totals[M < 4 ? 4 : M];
            if constexpr (M == 4) {
                V::sum4(sums[0][n], sums[1][n], sums[2][n], sums[3][n], totals);
            } else {
                QUIRE_UNROLL
                for (int m = 0; m < M; m++) totals[m] = V::sum(sums[m][n]);
            }
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) {
                out[m * out_stride + n] = bias ? totals[m] + bias[n] : totals[m];
            }
        }
    }
};

// One matrix product of a part: what every piece of it needs to know.
template <class Weight>
struct Product {
    const float *x;  // [M, K]
    int64_t x_stride, depth;
    const Weight *w;  // [N, K]
    const float *bias;
    float *out;  // [M, N]
    int64_t out_stride;
};

template <class V, int M, int N, class Weight>
void product_tile(const Product<Weight> &p, int64_t m, int64_t n) {
    Tile<V, M, N> tile;
    tile.clear();
    const Weight *w = p.w + n * p.depth, *next = w + kTilesAhead * N * p.depth;
    tile.walk(p.x + m * p.x_stride, p.x_stride, w, p.depth, p.depth, m == 0 ? next : nullptr);
    tile.finish(p.bias ? p.bias + n : nullptr, p.out + m * p.out_stride + n, p.out_stride);
}

// All rows of N columns.  Five rows go as 3 + 2, which keeps more sums in flight than 4 + 1.
template <class V, int N, class Weight>
void product_panel(const Product<Weight> &p, int64_t num_rows, int64_t n) {
    int64_t m = 0;
    if constexpr (V::kTileRows == 4) {
        for (; num_rows - m == 4 || num_rows - m > 6; m += 4) product_tile<V, 4, N>(p, m, n);
        for (; num_rows - m >= 3; m += 3) product_tile<V, 3, N>(p, m, n);
    }
    for (; num_rows - m >= 2; m += 2) product_tile<V, 2, N>(p, m, n);
    for (; m < num_rows; m++) product_tile<V, 1, N>(p, m, n);
}

template <class V, int N, class Weight>
QUIRE_INLINE int64_t product_panels(const Product<Weight> &p, int64_t num_rows, int64_t n,
                                    int64_t last) {
    for (; n + N <= last; n += N) product_panel<V, N>(p, num_rows, n);
    return n;
}

template <class V, class Weight>
void product_block(const Product<Weight> &p, int64_t num_rows, int64_t first, int64_t last) {
    int64_t n = first;
    if (num_rows <= (V::kTileRows == 4 ? 3 : 1)) {
        n = product_panels<V, 4>(p, num_rows, n, last);
    } else {
        n = product_panels<V, V::kTileCols>(p, num_rows, n, last);
    }
    product_panels<V, 1>(p, num_rows, n, last);
}

// Units run over parts, then blocks of columns, then blocks of rows.
QUIRE_INLINE int64_t num_units(const quire_matrix &part, int64_t num_rows) {
    return ceil_div(part.rows, kBlockCols) * ceil_div(num_rows, kBlockRows);
}

int64_t linear_units(const quire_op &op, const Run &run) {
    int64_t units = 0;
    for (int i = 0; i < op.num_parts; i++) units += num_units(op.parts[i], run.num_rows);
    return units;
}

template <class V, class Weight>
void linear_part(const quire_op &op, const Run &run, int part, int64_t column, int64_t first_unit,
                 int64_t last_unit) {
    const quire_matrix &matrix = op.parts[part];
    const int64_t row_blocks = ceil_div(run.num_rows, kBlockRows);
    for (int64_t unit = first_unit; unit < last_unit; unit++) {
        const int64_t n = unit / row_blocks * kBlockCols, m = unit % row_blocks * kBlockRows;
        const Product<Weight> product = {
            run.row(op.in[0], m), op.in[0].stride,
            matrix.cols,          static_cast<const Weight *>(matrix.data),
            op.vectors[part],     run.row(op.out[0], m) + column,
            op.out[0].stride};
        product_block<V>(product, smaller(run.num_rows - m, kBlockRows), n,
                         smaller(n + kBlockCols, matrix.rows));
    }
}

template <class V>
void linear(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    int64_t start = 0, column = 0;  // of the part
    for (int i = 0; i < op.num_parts; i++) {
        const int64_t end = start + num_units(op.parts[i], run.num_rows);
        const int64_t from = larger(first, start) - start, to = smaller(last, end) - start;
        if (from < to) {
            switch (op.parts[i].dtype) {
                case QUIRE_F32:
                    linear_part<V, float>(op, run, i, column, from, to);
                    break;
                case QUIRE_F16:
                    linear_part<V, Half>(op, run, i, column, from, to);
                    break;
                default:
                    linear_part<V, BFloat16>(op, run, i, column, from, to);
            }
        }
        start = end;
        column += op.parts[i].rows;
    }
}

}  // namespace
}  // namespace quire
