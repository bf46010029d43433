// Ops whose unit is one row and that only move or combine numbers: embedding, add, gated, select.
namespace quire {
namespace {

template <class V, class Weight>
void embedding_rows(const quire_op &op, const Run &run, int64_t first, int64_t last) {
    const Weight *table = static_cast<const Weight *>(op.parts[0].data);
    const int64_t cols = op.parts[0].cols;
    for (int64_t t = first; t < last; t++) {
        const Weight *from = table + run.step->token_ids[t] * cols;
        float *to = run.row(op.out[0], t);
        for_each_vector<V>(cols, [&](auto load, auto store) { store(to, load(from)); });
    }
}

template <class V>
void embedding(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    switch (op.parts[0].dtype) {
        case QUIRE_F32:
            return embedding_rows<V, float>(op, run, first, last);
        case QUIRE_F16:
            return embedding_rows<V, Half>(op, run, first, last);
        case QUIRE_BF16:
            return embedding_rows<V, BFloat16>(op, run, first, last);
        default:
            for (int64_t t = first; t < last; t++) {
                unpack_row(op.parts[0], run.step->token_ids[t], run.row(op.out[0], t));
            }
    }
}

template <class V>
void add(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
        const float *a = run.row(op.in[0], t), *b = run.row(op.in[1], t);
        float *to = run.row(op.out[0], t);
        for_each_vector<V>(op.out[0].cols,
                           [&](auto load, auto store) { store(to, V::add(load(a), load(b))); });
    }
}

template <class V>
QUIRE_INLINE typename V::Float times_sigmoid(typename V::Float x, typename V::Float logit) {
    const auto e = vector_exp<V>(V::sub(V::zero(), logit));
    return V::div(x, V::add(V::broadcast(1.0f), e));
}

template <class V>
QUIRE_INLINE typename V::Float silu(typename V::Float x) {
    return times_sigmoid<V>(x, x);
}

// x / 2 * (1 + tanh(u)) = x * sigmoid(2 u), u = sqrt(2 / pi) * (x + 0.044715 x^3).
template <class V>
QUIRE_INLINE typename V::Float gelu_tanh(typename V::Float x) {
    const auto cubic = V::mul(V::mul(V::mul(x, x), x), V::broadcast(0.044715f));
    return times_sigmoid<V>(x, V::mul(V::add(x, cubic), V::broadcast(1.5957691216057308f)));
}

template <class V>
QUIRE_INLINE typename V::Float clamped_swiglu(typename V::Float gate, typename V::Float up,
                                              float scale, float limit) {
    const auto high = V::broadcast(limit), low = V::broadcast(-limit);
    // The bound first: where the other is not a number, min and max give that.
    const auto g = V::min(high, gate), u = V::max(low, V::min(high, up));
    const auto glu = times_sigmoid<V>(g, V::mul(g, V::broadcast(scale)));
    return V::mul(glu, V::add(u, V::broadcast(1.0f)));
}

template <class V>
void clamped_gated(const quire_op &op, const Run &run, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
        const float *gate = run.row(op.in[0], t), *up = run.row(op.in[1], t);
        float *to = run.row(op.out[0], t);
        for_each_vector<V>(op.out[0].cols, [&](auto load, auto store) {
            store(to, clamped_swiglu<V>(load(gate), load(up), op.scale, op.limit));
        });
    }
}

template <class V>
void gated(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    if (op.activation == QUIRE_CLAMPED_SWIGLU) return clamped_gated<V>(op, run, first, last);
    const bool is_silu = op.activation == QUIRE_SILU;
    for (int64_t t = first; t < last; t++) {
        const float *gate = run.row(op.in[0], t), *up = run.row(op.in[1], t);
        float *to = run.row(op.out[0], t);
        for_each_vector<V>(op.out[0].cols, [&](auto load, auto store) {
            const auto x = load(gate);
            store(to, V::mul(is_silu ? silu<V>(x) : gelu_tanh<V>(x), load(up)));
        });
    }
}

template <class V>
void gate_rows(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
        const float *from = run.row(op.in[0], t);
        float *to = run.row(op.out[0], t);
        const auto gate =
            times_sigmoid<V>(V::broadcast(1.0f), V::broadcast(run.row(op.in[1], t)[0]));
        for_each_vector<V>(op.out[0].cols,
                           [&](auto load, auto store) { store(to, V::mul(load(from), gate)); });
    }
}

template <class V>
void select_rows(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t s = first; s < last; s++) {
        const float *from = run.row(op.in[0], run.logit_rows[s]);
        float *to = run.row(op.out[0], s);
        for_each_vector<V>(op.out[0].cols, [&](auto load, auto store) { store(to, load(from)); });
    }
}

}  // namespace
}  // namespace quire
