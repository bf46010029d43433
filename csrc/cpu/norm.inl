// Norms of rows, or of the equal segments (heads) of rows, and the residual sums beside them.
namespace quire {
namespace {

// x minus its mean; out may be x.
template <class V>
QUIRE_INLINE void center(const float *x, int64_t cols, float *out) {
    auto total = V::zero();
    for_each_vector<V>(cols, [&](auto load, auto) { total = V::add(total, load(x)); });
    const auto mean = V::broadcast(V::sum(total) / float(cols));
    for_each_vector<V>(cols, [&](auto load, auto store) { store(out, V::sub(load(x), mean)); });
}

// bias may be null; out may be x.
template <class V>
QUIRE_INLINE void norm_segment(const float *x, const float *weight, const float *bias, float eps,
                               int64_t cols, float *out) {
    auto squares = V::zero();
    for_each_vector<V>(cols, [&](auto load, auto) {
        const auto a = load(x);
        squares = V::fma(a, a, squares);
    });
    const auto factor = V::broadcast(1.0f / sqrtf(V::sum(squares) / float(cols) + eps));
    if (bias) {
        for_each_vector<V>(cols, [&](auto load, auto store) {
            store(out, V::fma(V::mul(load(x), factor), load(weight), load(bias)));
        });
    } else {
        for_each_vector<V>(cols, [&](auto load, auto store) {
            store(out, V::mul(V::mul(load(x), factor), load(weight)));
        });
    }
}

// vectors: the weight, of one segment or of the whole row, and the bias of a layer norm or null; out
// may be x.
template <class V>
QUIRE_INLINE void norm_row(const quire_op &op, const float *const *vectors, int64_t segments,
                           const float *x, int64_t cols, float *out) {
    const int64_t size = cols / segments, step = op.kv_heads > 1 ? size : 0;
    for (int64_t i = 0; i < segments; i++, x += size, out += size) {
        const float *from = x;
        if (op.norm == QUIRE_LAYER) {
            center<V>(x, size, out);
            from = out;
        }
        norm_segment<V>(from, vectors[0] + i * step, vectors[1], op.eps, size, out);
    }
}

template <class V>
void norm(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    const int64_t segments = op.heads > 1 ? op.heads : 1;
    for (int64_t t = first; t < last; t++) {
        norm_row<V>(op, op.vectors, segments, run.row(op.in[0], t), op.in[0].cols,
                    run.row(op.out[0], t));
    }
}

// What an addition adds: in0, or its norm, times the scale; and in1.
template <class V>
QUIRE_INLINE void add_row(const quire_op &op, const Run &run, int64_t t, float *to) {
    const float *x = run.row(op.in[0], t), *residual = run.row(op.in[1], t);
    const int64_t cols = op.in[0].cols;
    if (op.vectors[2]) {
        norm_row<V>(op, op.vectors + 2, 1, x, cols, to);
        x = to;
    }
    const auto scale = V::broadcast(scale_of(op));
    for_each_vector<V>(
        cols, [&](auto load, auto store) { store(to, V::fma(load(x), scale, load(residual))); });
}

template <class V>
void add(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) add_row<V>(op, run, t, run.row(op.out[0], t));
}

template <class V>
void add_norm(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
        float *total = run.row(op.out[1], t);
        add_row<V>(op, run, t, total);
        norm_row<V>(op, op.vectors, 1, total, op.in[0].cols, run.row(op.out[0], t));
    }
}

}  // namespace
}  // namespace quire
