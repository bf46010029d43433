// Root-mean-square normalisation of rows, or of the equal segments (heads) of rows.
namespace quire {
namespace {

template <class V>
QUIRE_INLINE void rms_norm_segment(const float *x, const float *weight, float eps, int64_t cols,
                                   float *out) {
    auto squares = V::zero();
    for_each_vector<V>(cols, [&](auto load, auto) {
        const auto a = load(x);
        squares = V::fma(a, a, squares);
    });
    const auto factor = V::broadcast(1.0f / sqrtf(V::sum(squares) / float(cols) + eps));
    for_each_vector<V>(cols, [&](auto load, auto store) {
        store(out, V::mul(V::mul(load(x), factor), load(weight)));
    });
}

template <class V>
QUIRE_INLINE void rms_norm_row(const quire_op &op, const float *x, int64_t cols, float *out) {
    const int64_t segments = op.heads > 1 ? op.heads : 1, size = cols / segments;
    for (int64_t i = 0; i < segments; i++) {
        rms_norm_segment<V>(x + i * size, op.vectors[0], op.eps, size, out + i * size);
    }
}

template <class V>
void rms_norm(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
        rms_norm_row<V>(op, run.row(op.in[0], t), op.in[0].cols, run.row(op.out[0], t));
    }
}

template <class V>
void add_rms_norm(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
        const float *a = run.row(op.in[0], t), *b = run.row(op.in[1], t);
        float *total = run.row(op.out[1], t);
        for_each_vector<V>(op.in[0].cols,
                           [&](auto load, auto store) { store(total, V::add(load(a), load(b))); });
        rms_norm_row<V>(op, total, op.in[0].cols, run.row(op.out[0], t));
    }
}

}  // namespace
}  // namespace quire
