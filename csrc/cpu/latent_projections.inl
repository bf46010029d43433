// What stands before and behind latent attention: each head's queries through its key matrix, and
// its attended latents through its value matrix.  In floats both are parts of one weight
// [H * (N + V), C] as the checkpoint has it; packed, each is a weight [heads, outputs, inputs] of its
// own.  A unit is a head and a block of tokens.
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

// What a unit is: a head, and the rows of its tokens.
struct HeadRows {
    int64_t head, begin, count;

    QUIRE_INLINE HeadRows(const quire_op &op, const Run &run, int64_t unit)
        : head(unit % op.heads),
          begin(unit / op.heads * kProjectedTokens),
          count(smaller(run.num_rows - begin, kProjectedTokens)) {}
};

// Floats of a head's rows of N numbers as the integer kernels read them.
QUIRE_INLINE int64_t rounded_floats(int64_t numbers) {
    return ceil_div(numbers, kBlock) * int64_t(sizeof(QuantizedBlock) / sizeof(float));
}

// A head's rows of `numbers` from x on, rounded, times its part of a packed weight; `outputs` of them
// go to out.  That is a linear op whose input stands in scratch memory.
inline void multiply_head(const quire_op &op, const Run &run, const HeadRows &rows, const float *x,
                          int64_t numbers, float *out, int64_t outputs, char *scratch) {
    const int64_t floats = rounded_floats(numbers);
    float *rounded = reinterpret_cast<float *>(scratch);
    for (int64_t t = 0; t < rows.count; t++) {
        run.kernels->integers.quantize_row(x + t * op.in[0].stride, nullptr, numbers,
                                           rounded + t * floats);
    }
    const float *arena = run.program->arena;
    quire_op product = {};
    product.kind = QUIRE_OP_LINEAR;
    product.row_dtype = QUIRE_INT8;
    product.in[0] = {rounded - arena, int32_t(floats), int32_t(numbers)};
    product.out[0] = {out - arena, op.out[0].stride, int32_t(outputs)};
    quire_matrix &part = product.parts[0];
    part = op.parts[0];
    part.rows = outputs;
    part.data = static_cast<const char *>(part.data) + rows.head * matrix_bytes(part);
    Run of_head = run;
    of_head.num_rows = rows.count;
    const int64_t units = ceil_div(outputs, kPanelRows) *
                          ceil_div(rows.count, block_rows(tuning_of(run, part), part));
    run.kernels->integers.linear_part(product, of_head, 0, 0, 0, units);
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

// The same for so few rows that memory is the limit: rows of weights are read where they stand, one
// behind the other, kRowsAtOnce at a time; each sum is still over N in order.  then: where to read
// next, or null.
constexpr int64_t kRowsAtOnce = 8;

template <class V, int M, int R, class Weight>
QUIRE_INLINE void add_key_rows(const float *x, int64_t x_stride, const Weight *keys, int64_t C,
                               const Weight *then, float *out, int64_t out_stride) {
    const auto step = [&](int64_t d, auto load, auto store) QUIRE_INLINE_LAMBDA {
        typename V::Float sums[M];
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) sums[m] = load(out + m * out_stride + d);
        QUIRE_UNROLL
        for (int r = 0; r < R; r++) {
            const typename V::Float k = load(keys + r * C + d);
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) {
                sums[m] = V::fma(V::broadcast(x[m * x_stride + r]), k, sums[m]);
            }
        }
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) store(out + m * out_stride + d, sums[m]);
    };
    constexpr int64_t kLine = 64 / int64_t(sizeof(Weight));
    constexpr int64_t kStride = kLine > V::kWidth ? kLine : V::kWidth;
    const auto load = [](const auto *p) QUIRE_INLINE_LAMBDA { return V::load(p); };
    const auto store = [](float *p, auto x) QUIRE_INLINE_LAMBDA { V::store(p, x); };
    int64_t d = 0;
    for (; d + kStride <= C; d += kStride) {
        if (then) {
            QUIRE_UNROLL
            for (int r = 0; r < R; r++) QUIRE_PREFETCH_L2(then + r * C + d);
        }
        QUIRE_UNROLL
        for (int64_t i = 0; i < kStride; i += V::kWidth) step(d + i, load, store);
    }
    for (; d + V::kWidth <= C; d += V::kWidth) step(d, load, store);
    if (d < C) {
        const int64_t n = C - d;
        step(
            d, [n](const auto *p) QUIRE_INLINE_LAMBDA { return V::load_partial(p, n); },
            [n](float *p, auto x) QUIRE_INLINE_LAMBDA { V::store_partial(p, x, n); });
    }
}

template <class V, int M, class Weight>
void through_keys_of_few(const float *x, int64_t x_stride, const Weight *keys, int64_t N, int64_t C,
                         const Weight *behind, float *out, int64_t out_stride) {
    for (int m = 0; m < M; m++) {
        for (int64_t d = 0; d < C; d++) out[m * out_stride + d] = 0.0f;
    }
    int64_t n = 0;
    for (; n + kRowsAtOnce <= N; n += kRowsAtOnce, x += kRowsAtOnce, keys += kRowsAtOnce * C) {
        const bool is_last = n + 2 * kRowsAtOnce > N;
        add_key_rows<V, M, kRowsAtOnce>(x, x_stride, keys, C,
                                        is_last ? behind : keys + kRowsAtOnce * C, out, out_stride);
    }
    for (; n < N; n++, x++, keys += C) {
        add_key_rows<V, M, 1>(x, x_stride, keys, C, static_cast<const Weight *>(nullptr), out,
                              out_stride);
    }
}

// A head's queries through its keys in a float format.  behind: whether the next head's are wanted
// next.
template <class V, class Weight>
void queries_through_keys(const quire_op &op, const Run &run, const HeadRows &rows, int64_t N,
                          bool behind, float *room) {
    const int64_t C = op.head_dim, from = op.in[0].cols / op.heads, to = C + op.rope_dims;
    const int64_t matrix_rows = op.parts[0].rows / op.heads;
    const Weight *keys =
        static_cast<const Weight *>(op.parts[0].data) + rows.head * matrix_rows * C;
    const Weight *then = behind ? keys + matrix_rows * C : nullptr;
    const int64_t begin = rows.begin, end = begin + rows.count;
    for (int64_t t = begin; t < end;) {
        const float *x = run.row(op.in[0], t) + rows.head * from;
        float *out = run.row(op.out[0], t) + rows.head * to;
        if (rows.count <= kRowsOnce) {
            with_rows<kRowsOnce>(rows.count, [&](auto count) {
                through_keys_of_few<V, decltype(count)::value>(x, op.in[0].stride, keys, N, C, then,
                                                               out, op.out[0].stride);
            });
            return;
        }
        const int64_t groups = ceil_div(end - t, kGroupRows<V>), count = (end - t) / groups;
        with_rows<kGroupRows<V>>(count, [&](auto rows_once) {
            through_keys<V, decltype(rows_once)::value>(x, op.in[0].stride, keys, N, C, matrix_rows,
                                                        t == begin, out, op.out[0].stride, room);
        });
        t += count;
    }
}

template <class V>
void latent_queries(const quire_op &op, const Run &run, char *scratch, int64_t first,
                    int64_t last) {
    const int64_t H = op.heads, C = op.head_dim, P = op.rope_dims;
    const int64_t from = op.in[0].cols / H, to = C + P, N = from - P;  // numbers of a head
    for (int64_t unit = first; unit < last; unit++) {
        const HeadRows rows(op, run, unit);
        for (int64_t t = rows.begin; t < rows.begin + rows.count; t++) {
            rotate_head<V>(run.row(op.in[0], t) + rows.head * from + N, run.row(op.in[1], t), op, P,
                           run.row(op.out[0], t) + rows.head * to + C);
        }
        if (is_packed(op.parts[0])) {
            multiply_head(op, run, rows, run.row(op.in[0], rows.begin) + rows.head * from, N,
                          run.row(op.out[0], rows.begin) + rows.head * to, C, scratch);
            continue;
        }
        with_weight(op.parts[0], [&](auto weight) {
            queries_through_keys<V, decltype(weight)>(op, run, rows, N, unit + 1 < last,
                                                      reinterpret_cast<float *>(scratch));
        });
    }
}

// A head's latents through its values in a float format.  behind: whether the next head's are wanted
// next; between them stand keys, which nobody should ask the memory for.
template <class V, class Weight>
void latents_through_values(const quire_op &op, const Run &run, const HeadRows &rows, bool behind) {
    using Products = FloatProducts<V, Weight>;
    const int64_t C = op.in[0].cols / op.heads, D = op.out[0].cols / op.heads;
    const quire_matrix &matrix = op.parts[0];
    const int64_t matrix_rows = matrix.rows / op.heads, row_bytes = C * int64_t(sizeof(Weight));
    quire_tuning tuning = tuning_of(run, matrix);
    const Product<Products> product = {
        run.row(op.in[0], rows.begin) + rows.head * C,
        op.in[0].stride,
        C,
        static_cast<const Weight *>(matrix.data) + ((rows.head + 1) * matrix_rows - D) * C,
        nullptr,
        run.row(op.out[0], rows.begin) + rows.head * D,
        op.out[0].stride,
        &tuning,
        nullptr,
        0,
        0};
    const int64_t height =
        ceil_div(rows.count, ceil_div(rows.count, tile_rows(tuning, V::kTileRows)));
    const int64_t ahead = smaller(ceil_div(tuning.ahead_bytes, row_bytes), D);  // in rows
    tuning.ahead_bytes = int32_t(ahead * row_bytes);
    multiply<Products, V::kTileRows>(product, rows.count, height, 0, D - ahead);
    tuning.ahead_bytes += int32_t((matrix_rows - D) * row_bytes);
    if (!behind) tuning.ahead_rows = INT32_MAX;
    multiply<Products, V::kTileRows>(product, rows.count, height, D - ahead, D);
}

template <class V>
void latent_values(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    const int64_t C = op.in[0].cols / op.heads, D = op.out[0].cols / op.heads;
    for (int64_t unit = first; unit < last; unit++) {
        const HeadRows rows(op, run, unit);
        if (is_packed(op.parts[0])) {
            multiply_head(op, run, rows, run.row(op.in[0], rows.begin) + rows.head * C, C,
                          run.row(op.out[0], rows.begin) + rows.head * D, D, scratch);
            continue;
        }
        with_weight(op.parts[0], [&](auto weight) {
            latents_through_values<V, decltype(weight)>(op, run, rows, unit + 1 < last);
        });
    }
}

// Of a thread: rows of queries, or a head's rows rounded.
template <class V>
size_t projection_scratch_bytes(const quire_op &op, const Run &run) {
    if (!is_packed(op.parts[0])) return sizeof(float) * kGroupRows<V> * kChunkRoom;
    return sizeof(float) * rounded_floats(op.parts[0].cols) *
           smaller(run.num_rows, kProjectedTokens);
}

}  // namespace
}  // namespace quire
