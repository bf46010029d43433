// The functions between the matrices of an MLP, alone or times a second product; and scaled logits.
namespace quire {
namespace {

template <class V>
QUIRE_INLINE typename V::Float times_sigmoid(typename V::Float x, typename V::Float logit) {
    const auto e = vector_exp<V>(V::sub(V::zero(), logit));
    return V::div(x, V::add(V::broadcast(1.0f), e));
}

// x / 2 * (1 + tanh(u)) = x * sigmoid(2 u), u = sqrt(2 / pi) * (x + 0.044715 x^3).
template <class V>
QUIRE_INLINE typename V::Float gelu_tanh(typename V::Float x) {
    const auto cubic = V::mul(V::mul(V::mul(x, x), x), V::broadcast(0.044715f));
    return times_sigmoid<V>(x, V::mul(V::add(x, cubic), V::broadcast(1.5957691216057308f)));
}

// erfc(z) for z >= 0: t exp(-z^2) p(t), t = 1 / (1 + z / 2); p is the polynomial of degree 8 with
// the smallest relative error for z up to 9.5, 4e-8.
template <class V>
QUIRE_INLINE typename V::Float vector_erfc(typename V::Float z) {
    using Float = typename V::Float;
    const Float t = V::div(V::broadcast(1.0f), V::fma(z, V::broadcast(0.5f), V::broadcast(1.0f)));
    Float y = V::broadcast(-0.0588906469f);
    y = V::fma(y, t, V::broadcast(0.283701327f));
    y = V::fma(y, t, V::broadcast(-0.485382356f));
    y = V::fma(y, t, V::broadcast(0.275976577f));
    y = V::fma(y, t, V::broadcast(-0.0251765731f));
    y = V::fma(y, t, V::broadcast(0.202069356f));
    y = V::fma(y, t, V::broadcast(0.24326113f));
    y = V::fma(y, t, V::broadcast(0.282353467f));
    y = V::fma(y, t, V::broadcast(0.282087677f));
    return V::mul(V::mul(y, t), vector_exp<V>(V::sub(V::zero(), V::mul(z, z))));
}

// x * Phi(x) = max(x, 0) - |x| / 2 * erfc(|x| / sqrt(2)); from |x| = 16 on the second term is 0.
template <class V>
QUIRE_INLINE typename V::Float gelu(typename V::Float x) {
    const auto size = V::min(V::max(V::sub(V::zero(), x), x), V::broadcast(16.0f));
    const auto tail = vector_erfc<V>(V::mul(size, V::broadcast(0.70710678f)));
    return V::sub(V::max(V::zero(), x), V::mul(V::mul(size, V::broadcast(0.5f)), tail));
}

// Calls body with the function of vectors that `kind` names.
template <class V, class Body>
QUIRE_INLINE void with_activation(int32_t kind, Body body) {
    using Float = typename V::Float;
    switch (kind) {
        case QUIRE_SILU:
            return body([](Float x) { return times_sigmoid<V>(x, x); });
        case QUIRE_GELU:
            return body([](Float x) { return gelu<V>(x); });
        case QUIRE_GELU_TANH:
            return body([](Float x) { return gelu_tanh<V>(x); });
        case QUIRE_QUICK_GELU:
            return body(
                [](Float x) { return times_sigmoid<V>(x, V::mul(x, V::broadcast(1.702f))); });
        case QUIRE_TANH:
            return body([](Float x) {
                const Float two = V::broadcast(2.0f);
                const Float twice = times_sigmoid<V>(two, V::mul(x, two));
                return V::sub(twice, V::broadcast(1.0f));
            });
        case QUIRE_RELU:
            return body([](Float x) { return V::max(V::zero(), x); });
        case QUIRE_LOGISTIC:
            return body([](Float x) { return times_sigmoid<V>(V::broadcast(1.0f), x); });
        default:
            return body([](Float x) {
                const Float positive = V::max(V::zero(), x);
                return V::mul(positive, positive);
            });
    }
}

template <class V>
void activate(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    with_activation<V>(op.activation, [&](auto activation) {
        for (int64_t t = first; t < last; t++) {
            const float *x = run.row(op.in[0], t);
            float *to = run.row(op.out[0], t);
            for_each_vector<V>(op.out[0].cols,
                               [&](auto load, auto store) { store(to, activation(load(x))); });
        }
    });
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
            store(to, clamped_swiglu<V>(load(gate), load(up), op.scale, op.cap));
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
void gated(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    if (op.activation == QUIRE_CLAMPED_SWIGLU) return clamped_gated<V>(op, run, first, last);
    with_activation<V>(op.activation, [&](auto activation) {
        for (int64_t t = first; t < last; t++) {
            const float *gate = run.row(op.in[0], t), *up = run.row(op.in[1], t);
            float *to = run.row(op.out[0], t);
            for_each_vector<V>(op.out[0].cols, [&](auto load, auto store) {
                store(to, V::mul(activation(load(gate)), load(up)));
            });
        }
    });
}

// cap * tanh(x / cap), tanh(u) = 2 * sigmoid(2 u) - 1.
template <class V>
QUIRE_INLINE typename V::Float capped(typename V::Float x, float cap) {
    const auto half = V::div(x, V::broadcast(cap)), two = V::broadcast(2.0f);
    const auto twice = times_sigmoid<V>(two, V::mul(half, two));
    return V::mul(V::sub(twice, V::broadcast(1.0f)), V::broadcast(cap));
}

// A unit is kScaledColumns logits of a row: one row alone is work for all threads.
template <class V>
void scale_logits(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    const int64_t cols = op.in[0].cols, pieces = ceil_div(cols, kScaledColumns);
    const auto scale = V::broadcast(scale_of(op));
    for (int64_t unit = first; unit < last; unit++) {
        const int64_t start = unit % pieces * kScaledColumns;
        const int64_t count = smaller(cols - start, kScaledColumns);
        const float *x = run.row(op.in[0], unit / pieces) + start;
        float *to = run.row(op.out[0], unit / pieces) + start;
        for_each_vector<V>(count, [&](auto load, auto store) {
            const auto scaled = V::mul(load(x), scale);
            store(to, op.cap > 0 ? capped<V>(scaled, op.cap) : scaled);
        });
    }
}

}  // namespace
}  // namespace quire
