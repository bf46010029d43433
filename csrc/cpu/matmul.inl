// Matrix products: activations [M, K] in float32 times the transpose of weights [N, K] as stored.
//
// Every output element has one vector accumulator that walks K in order and one fixed tree that sums
// its lanes, whatever M is and however the work is cut.  So a row gives the same bits alone and in any
// batch.  What varies is how many elements a tile computes together to use each loaded number often:
//
//   few rows    tiles of M x N elements read the weights from where the checkpoint was mapped
//   many rows   a block of weights is converted to float32 once, [block columns, depth], and serves
//               all row tiles of a block of rows; between depths the accumulators rest in memory
namespace quire {
namespace {

constexpr int64_t kFewRows = 12;
constexpr int64_t kBlockCols = 24;   // weight rows of a unit
constexpr int64_t kBlockRows = 64;   // activation rows of a unit, when there are many
constexpr int64_t kBlockDepth = 512;
#ifndef PB
#define PB 1024
#endif

#ifndef HINT
#define HINT 3
#endif
#ifndef PN
#define PN 8
#endif
// Asks for memory, line by line: rows of `row_lines` lines at a stride.
template <class Weight>
struct Fetcher {
    static constexpr int64_t kLine = 64 / sizeof(Weight);
    const Weight *at;
    int64_t row_length, stride, left;

    Fetcher(const Weight *at, int64_t row_length, int64_t stride)
        : at(at), row_length(row_length), stride(stride), left(row_length) {}

    QUIRE_INLINE void fetch_line() {
        __builtin_prefetch(at, 0, HINT);
        at += kLine;
        left -= kLine;
        if (left <= 0) {
            at += stride - row_length + left;
            left += row_length;
        }
    }
};

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
    QUIRE_INLINE void load(const float *from) {
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) {
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) sums[m][n] = V::load(from + (m * N + n) * V::kWidth);
        }
    }
    QUIRE_INLINE void store(float *to) const {
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) {
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) V::store(to + (m * N + n) * V::kWidth, sums[m][n]);
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

    // Adds the products of `depth` columns.
    template <class Weight>
    QUIRE_INLINE void walk(const float *x, int64_t x_stride, const Weight *w, int64_t w_stride,
                           int64_t depth, Fetcher<Weight> *fetcher = nullptr) {
        const auto step = [&](int64_t k) {
            add_products([&](int m) { return V::load(x + m * x_stride + k); },
                         [&](int n) { return V::load(w + n * w_stride + k); });
        };
        int64_t k = 0;
        if (fetcher) {
            constexpr int64_t kLine = 64 / sizeof(Weight);
            for (; k + kLine <= depth; k += kLine) {
                QUIRE_UNROLL
                for (int n = 0; n < N; n++) fetcher->fetch_line();
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
void direct_tile(const Product<Weight> &p, int64_t m, int64_t n) {
    Tile<V, M, N> tile;
    tile.clear();
    const Weight *w = p.w + n * p.depth;
    const float *x = p.x + m * p.x_stride;
    if (m > 0) {
        tile.walk(x, p.x_stride, w, p.depth, p.depth);
    } else {
        for (int64_t k = 0; k < p.depth; k += PB) {
            const int64_t depth = p.depth - k < PB ? p.depth - k : PB;
            const bool last = k + PB >= p.depth;
            const int64_t next_k = last ? 0 : k + PB;
            const Weight *next = w + (last ? N * p.depth : k + PB);
            Fetcher<Weight> fetcher(next, p.depth - next_k < PB ? p.depth - next_k : PB, p.depth);
            tile.walk(x + k, p.x_stride, w + k, p.depth, depth, &fetcher);
        }
    }
    tile.finish(p.bias ? p.bias + n : nullptr, p.out + m * p.out_stride + n, p.out_stride);
}

// All rows of N columns.  Leftover rows go in threes: 5 = 3 + 2 keeps more sums in flight than 4 + 1.
template <class V, int N, class Weight>
void direct_panel(const Product<Weight> &p, int64_t num_rows, int64_t n) {
    int64_t m = 0;
    if constexpr (V::kTileRows == 4) {
        for (; num_rows - m == 4 || num_rows - m > 6; m += 4) direct_tile<V, 4, N>(p, m, n);
        for (; num_rows - m >= 3; m += 3) direct_tile<V, 3, N>(p, m, n);
    }
    for (; num_rows - m >= 2; m += 2) direct_tile<V, 2, N>(p, m, n);
    for (; m < num_rows; m++) direct_tile<V, 1, N>(p, m, n);
}

template <class V, int N, class Weight>
QUIRE_INLINE int64_t direct_panels(const Product<Weight> &p, int64_t num_rows, int64_t n,
                                   int64_t last) {
    for (; n + N <= last; n += N) direct_panel<V, N>(p, num_rows, n);
    return n;
}

template <class V, class Weight>
void direct_block(const Product<Weight> &p, int64_t num_rows, int64_t first, int64_t last) {
    int64_t n = first;
    if (num_rows == 1) {
        for (; n + PN <= last; n += PN) direct_tile<V, 1, PN>(p, 0, n);
        for (; n + 4 <= last; n += 4) direct_tile<V, 1, 4>(p, 0, n);
    } else if (num_rows <= 3 && V::kTileRows == 4) {
        n = direct_panels<V, 4>(p, num_rows, n, last);
    } else {
        n = direct_panels<V, V::kTileCols>(p, num_rows, n, last);
    }
    direct_panels<V, 1>(p, num_rows, n, last);
}

// One tile of a block at one depth; the weights are [.., kBlockDepth] in float32.
template <class V, int M, int N, class Weight>
QUIRE_INLINE void deep_tile(const Product<Weight> &p, int64_t m, int64_t n, int64_t k,
                            int64_t depth, const float *weights, float *rest) {
    Tile<V, M, N> tile;
    if (k == 0) {
        tile.clear();
    } else {
        tile.load(rest);
    }
    tile.walk(p.x + m * p.x_stride + k, p.x_stride, weights, kBlockDepth, depth);
    if (k + depth < p.depth) {
        tile.store(rest);
    } else {
        tile.finish(p.bias ? p.bias + n : nullptr, p.out + m * p.out_stride + n, p.out_stride);
    }
}

template <class V, int M, class Weight>
void deep_tiles(const Product<Weight> &p, int64_t m, int64_t first, int64_t last, int64_t k,
                int64_t depth, const float *weights, float *rest) {
    constexpr int N = V::kTileCols;
    int64_t n = first;
    for (; n + N <= last; n += N) {
        deep_tile<V, M, N>(p, m, n, k, depth, weights + (n - first) * kBlockDepth,
                           rest + (n - first) * M * V::kWidth);
    }
    for (; n < last; n++) {
        deep_tile<V, M, 1>(p, m, n, k, depth, weights + (n - first) * kBlockDepth,
                           rest + (n - first) * M * V::kWidth);
    }
}

template <class V, class Weight>
void convert_weights(const Weight *from, int64_t stride, int64_t num_rows, int64_t depth,
                     float *to) {
    for (int64_t n = 0; n < num_rows; n++) {
        for_each_vector<V>(depth, [&](auto load, auto store) {
            store(to + n * kBlockDepth, load(from + n * stride));
        });
    }
}

template <class V, class Weight>
void deep_block(const Product<Weight> &p, int64_t num_rows, int64_t first, int64_t last,
                char *scratch) {
    constexpr int M = V::kTileRows;
    float *weights = reinterpret_cast<float *>(scratch);
    float *resting = weights + kBlockCols * kBlockDepth;
    for (int64_t k = 0; k < p.depth; k += kBlockDepth) {
        const int64_t depth = p.depth - k < kBlockDepth ? p.depth - k : kBlockDepth;
        convert_weights<V>(p.w + first * p.depth + k, p.depth, last - first, depth, weights);
        int64_t m = 0;
        for (; m + M <= num_rows; m += M) {
            deep_tiles<V, M>(p, m, first, last, k, depth, weights,
                             resting + m * kBlockCols * V::kWidth);
        }
        for (; m < num_rows; m++) {
            deep_tiles<V, 1>(p, m, first, last, k, depth, weights,
                             resting + m * kBlockCols * V::kWidth);
        }
    }
}

QUIRE_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Units run over parts, then blocks of columns, then blocks of rows.
QUIRE_INLINE int64_t row_blocks(int64_t num_rows) {
    return num_rows <= kFewRows ? 1 : ceil_div(num_rows, kBlockRows);
}

int64_t linear_units(const quire_op &op, const Run &run) {
    int64_t blocks = 0;
    for (int i = 0; i < op.num_parts; i++) blocks += ceil_div(op.parts[i].rows, kBlockCols);
    return blocks * row_blocks(run.num_rows);
}

template <class V>
size_t linear_scratch_bytes() {
    return sizeof(float) * kBlockCols * (kBlockDepth + kBlockRows * V::kWidth);
}

template <class V, class Weight>
void linear_part(const quire_op &op, const Run &run, char *scratch, int part, int64_t column,
                 int64_t first_unit, int64_t last_unit) {
    const quire_matrix &matrix = op.parts[part];
    const int64_t blocks = row_blocks(run.num_rows);
    for (int64_t unit = first_unit; unit < last_unit; unit++) {
        const int64_t first = unit / blocks * kBlockCols;
        const int64_t last = first + kBlockCols < matrix.rows ? first + kBlockCols : matrix.rows;
        const int64_t m = unit % blocks * kBlockRows;
        const Product<Weight> product = {run.row(op.in[0], m),
                                         op.in[0].stride,
                                         matrix.cols,
                                         static_cast<const Weight *>(matrix.data),
                                         op.vectors[part],
                                         run.row(op.out[0], m) + column,
                                         op.out[0].stride};
        if (run.num_rows <= kFewRows) {
            direct_block<V>(product, run.num_rows, first, last);
        } else {
            const int64_t left = run.num_rows - m;
            deep_block<V>(product, left < kBlockRows ? left : kBlockRows, first, last, scratch);
        }
    }
}

template <class V>
void linear(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    int64_t start = 0, column = 0;  // of the part
    for (int i = 0; i < op.num_parts; i++) {
        const int64_t end =
            start + ceil_div(op.parts[i].rows, kBlockCols) * row_blocks(run.num_rows);
        const int64_t from = (first > start ? first : start) - start;
        const int64_t to = (last < end ? last : end) - start;
        if (from < to) {
            switch (op.parts[i].dtype) {
                case QUIRE_F32:
                    linear_part<V, float>(op, run, scratch, i, column, from, to);
                    break;
                case QUIRE_F16:
                    linear_part<V, Half>(op, run, scratch, i, column, from, to);
                    break;
                default: linear_part<V, BFloat16>(op, run, scratch, i, column, from, to);
            }
        }
        start = end;
        column += op.parts[i].rows;
    }
}

}  // namespace
}  // namespace quire
