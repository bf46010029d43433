// What stands before and behind latent attention: each head's queries through its key matrix, and
// its attended latents through its value matrix.  Both are parts of one weight [H * (N + V), C] as
// the checkpoint has it.  A unit is a head and a block of tokens.
namespace quire {
namespace {

constexpr int64_t kProjectedTokens = 64;  // of a unit, at most

QUIRE_INLINE int64_t projection_units(const quire_op &op, const Run &run) {
    return op.heads * ceil_div(run.num_rows, kProjectedTokens);
}

// Calls body(Weight()) with the type of a float matrix.
template <class Body>
QUIRE_INLINE void with_weight(const quire_matrix &matrix, Body body) {
    switch (matrix.dtype) {
        case QUIRE_F32:
            return body(float());
        case QUIRE_F16:
            return body(Half());
        default:
            return body(BFloat16());
    }
}

// Calls body(count, whole, d) for tiles of N vectors, then of fewer, that cover D columns.
template <class V, int N, class Body>
QUIRE_INLINE void each_tile(int64_t d, int64_t D, const Body &body) {
    for (; d + N * V::kWidth <= D; d += N * V::kWidth) body(Count<N>(), Count<true>(), d);
    if constexpr (N > 1) {
        each_tile<V, (N == 2 ? 1 : (N + 1) / 2)>(d, D, body);
    } else if (d < D) {
        body(Count<1>(), Count<false>(), d);
    }
}

// out [M, C] = x [M, N] times a head's key matrix [N, C], summed over N in order.
// room: for M rows of kChunkRoom numbers.  asks: for the columns behind the ones in hand, and then
// for the next head's, head_rows further on.
template <class V, int M, class Weight>
void through_keys(const float *x, int64_t x_stride, const Weight *keys, int64_t N, int64_t C,
                  int64_t head_rows, bool asks, float *out, int64_t out_stride, float *room) {
    for (int m = 0; m < M; m++) {
        for (int64_t d = 0; d < C; d++) out[m * out_stride + d] = 0.0f;
    }
    for (int64_t n = 0; n < N; n += kChunkRoom, keys += kChunkRoom * C) {
        const int64_t depth = smaller(N - n, kChunkRoom);
        for (int m = 0; m < M; m++) {
            memcpy(room + m * kChunkRoom, x + m * x_stride + n, depth * sizeof(float));
        }
        const ValueRows<Weight> rows = {&keys, C, kChunkRoom};
        each_tile<V, vectors_beside<V, M>()>(0, C, [&](auto count, auto whole, int64_t d) {
            // The next columns; behind the last ones, the first of the next head.
            const int64_t next = d + count.value * V::kWidth;
            const Weight *fetched = next < C ? keys + next : keys + head_rows * C;
            value_tile<V, M, count.value, whole.value>(
                room, rows, d, C - d, 0, depth, out + d, out_stride,
                [&](int64_t) { return reinterpret_cast<const char *>(asks ? fetched : nullptr); });
        });
    }
}

template <class V>
void latent_queries(const quire_op &op, const Run &run, char *scratch, int64_t first,
                    int64_t last) {
    const int64_t H = op.heads, C = op.head_dim, P = op.rope_dims;
    const int64_t from = op.in[0].cols / H, to = C + P, N = from - P;  // numbers of a head
    const quire_matrix &matrix = op.parts[0];
    const int64_t matrix_rows = matrix.rows / H;
    float *room = reinterpret_cast<float *>(scratch);
    for (int64_t unit = first; unit < last; unit++) {
        const int64_t head = unit % H, begin = unit / H * kProjectedTokens;
        const int64_t end = smaller(run.num_rows, begin + kProjectedTokens);
        for (int64_t t = begin; t < end; t++) {
            rotate_head<V>(run.row(op.in[0], t) + head * from + N, run.row(op.in[1], t), op, P,
                           run.row(op.out[0], t) + head * to + C);
        }
        for (int64_t t = begin; t < end;) {
            const int64_t groups = ceil_div(end - t, kGroupRows<V>), count = (end - t) / groups;
            with_weight(matrix, [&](auto weight) {
                using Weight = decltype(weight);
                const Weight *keys =
                    static_cast<const Weight *>(matrix.data) + head * matrix_rows * C;
                with_rows<kGroupRows<V>>(count, [&](auto rows) {
                    through_keys<V, decltype(rows)::value>(
                        run.row(op.in[0], t) + head * from, op.in[0].stride, keys, N, C,
                        matrix_rows, t == begin, run.row(op.out[0], t) + head * to,
                        op.out[0].stride, room);
                });
            });
            t += count;
        }
    }
}

template <class V>
void latent_values(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    const int64_t H = op.heads, C = op.in[0].cols / H, D = op.out[0].cols / H;
    const quire_matrix &matrix = op.parts[0];
    const quire_tuning &tuning = tuning_of(run, matrix);
    const int64_t matrix_rows = matrix.rows / H;
    for (int64_t unit = first; unit < last; unit++) {
        const int64_t head = unit % H, begin = unit / H * kProjectedTokens;
        const int64_t num_rows = smaller(run.num_rows - begin, kProjectedTokens);
        const int64_t height =
            ceil_div(num_rows, ceil_div(num_rows, tile_rows(tuning, V::kTileRows)));
        with_weight(matrix, [&](auto weight) {
            using Products = FloatProducts<V, decltype(weight)>;
            const auto *values = static_cast<const decltype(weight) *>(matrix.data) +
                                 (head * matrix_rows + matrix_rows - D) * C;
            const Product<Products> product = {run.row(op.in[0], begin) + head * C,
                                               op.in[0].stride,
                                               C,
                                               values,
                                               nullptr,
                                               run.row(op.out[0], begin) + head * D,
                                               op.out[0].stride,
                                               &tuning,
                                               nullptr,
                                               0,
                                               0};
            multiply<Products, V::kTileRows>(product, num_rows, height, 0, D);
        });
    }
}

}  // namespace
}  // namespace quire
