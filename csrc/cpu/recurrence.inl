// Layers whose heads keep a matrix S, [Dk, Dv], that every token fades, adds to and reads:
//
//     S = decay * S + k w^T,   w = key_factor * d,   d = value_factor * v - correction * (S^T k)
//     out = query_factor * (S^T q) + product * d + skip * v      (S before this token)
//
// One sweep over S does the last token's change and takes this token's two sums, so that a number
// of S is read and written once a token.  Columns of S do not meet: a strip of them stays in the
// first-level cache for a piece of the tokens.  The order of every sum, and where numbers are
// rounded, do not depend on the pieces: a token alone gives the same bits as in a row of many.
//
// A unit is a head of one request, all its tokens.
namespace quire {
namespace {

constexpr int64_t kPieceTokens = 64;

// What one token does to a head.
struct HeadToken {
    const float *key, *query, *value;
    float *out;
    float decay, key_factor, value_factor, correction, query_factor, product, skip;
};

QUIRE_INLINE float softplus(float x) {
    return x > 20.0f ? x : log1pf(expf(x));
}

template <class V>
QUIRE_INLINE float dot(const float *a, const float *b, int64_t n) {
    auto sum = V::zero();
    for_each_vector<V>(n, [&](auto load, auto) { sum = V::fma(load(a), load(b), sum); });
    return V::sum(sum);
}

// Rows [queries | keys | values]; in1 and in2 say how much is written and how much is kept.
template <class V>
QUIRE_INLINE HeadToken delta_rule_token(const quire_op &op, const Run &run, int64_t t, int64_t h) {
    const quire_recurrence &r = *op.recurrence;
    const int64_t keys = int64_t(r.key_heads) * r.key_dim;
    const int64_t key_head = h / (r.heads / r.key_heads);
    const float *row = run.row(op.in[0], t);
    HeadToken token = {};
    token.query = row + key_head * r.key_dim;
    token.key = token.query + keys;
    token.value = row + 2 * keys + h * r.value_dim;
    const float step = softplus(run.row(op.in[2], t)[h] + r.time_bias[h]);
    token.decay = expf(-expf(r.decay_log[h]) * step);
    token.value_factor = 1.0f / (1.0f + expf(-run.row(op.in[1], t)[h]));
    const float least = 1e-6f;
    token.key_factor = 1.0f / sqrtf(dot<V>(token.key, token.key, r.key_dim) + least);
    const float query_length = sqrtf(dot<V>(token.query, token.query, r.key_dim) + least);
    const float query_factor = 1.0f / (query_length * sqrtf(float(r.key_dim)));
    token.correction = token.value_factor * token.decay * token.key_factor;
    token.query_factor = token.decay * query_factor;
    token.product = token.key_factor * query_factor * dot<V>(token.key, token.query, r.key_dim);
    return token;
}

// Rows [values | keys | queries]; in1 says how long the step is.
template <class V>
QUIRE_INLINE HeadToken selective_token(const quire_op &op, const Run &run, int64_t t, int64_t h) {
    const quire_recurrence &r = *op.recurrence;
    const int64_t keys = int64_t(r.key_heads) * r.key_dim;
    const int64_t key_head = h / (r.heads / r.key_heads);
    const float *row = run.row(op.in[0], t);
    HeadToken token = {};
    token.value = row + h * r.value_dim;
    token.key = row + int64_t(r.heads) * r.value_dim + key_head * r.key_dim;
    token.query = token.key + keys;
    float step = softplus(run.row(op.in[1], t)[h] + r.time_bias[h]);
    step = step < r.least_step ? r.least_step : step;
    step = step > r.most_step ? r.most_step : step;
    token.decay = expf(-expf(r.decay_log[h]) * step);
    token.key_factor = 1.0f;
    token.value_factor = step;
    token.query_factor = token.decay;
    token.product = dot<V>(token.key, token.query, r.key_dim);
    token.skip = r.skip[h];
    return token;
}

// Some columns of S, [rows][N vectors], in memory of its own; what is behind `columns` is 0.
template <class V, int N>
struct Strip {
    using Float = typename V::Float;
    static constexpr int64_t kColumns = N * V::kWidth;

    float *memory;
    int64_t rows, columns;

    QUIRE_INLINE Float load(const float *from, int n) const {
        const int64_t left = columns - n * V::kWidth;
        return left < V::kWidth ? V::load_partial(from + n * V::kWidth, left)
                                : V::load(from + n * V::kWidth);
    }
    QUIRE_INLINE void store(float *to, int n, Float a) const {
        const int64_t left = columns - n * V::kWidth;
        left < V::kWidth ? V::store_partial(to + n * V::kWidth, a, left)
                         : V::store(to + n * V::kWidth, a);
    }

    void read(const float *state, int64_t stride) {
        for (int64_t i = 0; i < rows; i++) {
            for (int n = 0; n < N; n++) {
                V::store(memory + i * kColumns + n * V::kWidth,
                         state ? load(state + i * stride, n) : V::zero());
            }
        }
    }

    void write(float *state, int64_t stride) const {
        for (int64_t i = 0; i < rows; i++) {
            for (int n = 0; n < N; n++) {
                store(state + i * stride, n, V::load(memory + i * kColumns + n * V::kWidth));
            }
        }
    }

    // Makes the change of the token before, if there is one, and takes the sums S^T k and S^T q of
    // this token, if there is one.
    template <bool kChange, bool kSum>
    QUIRE_INLINE void sweep(const HeadToken *before, const Float (&written)[N],
                            const HeadToken *token, Float (&at_key)[N], Float (&at_query)[N]) {
        const Float decay = V::broadcast(kChange ? before->decay : 1.0f);
        for (int64_t i = 0; i < rows; i++) {
            float *row = memory + i * kColumns;
            unroll<N>([&](auto n) QUIRE_INLINE_LAMBDA {
                Float s = V::load(row + n * V::kWidth);
                if constexpr (kChange) {
                    s = V::fma(V::broadcast(before->key[i]), written[n], V::mul(decay, s));
                    V::store(row + n * V::kWidth, s);
                }
                if constexpr (kSum) {
                    at_key[n] = V::fma(V::broadcast(token->key[i]), s, at_key[n]);
                    at_query[n] = V::fma(V::broadcast(token->query[i]), s, at_query[n]);
                }
            });
        }
    }

    // Does the tokens of a piece; `column` is the strip's first.
    void run(const HeadToken *tokens, int64_t count, int64_t column) {
        Float written[N] = {};
        for (int64_t t = 0; t < count; t++) {
            const HeadToken &token = tokens[t];
            Float at_key[N], at_query[N];
            for (int n = 0; n < N; n++) at_key[n] = at_query[n] = V::zero();
            t ? sweep<true, true>(&tokens[t - 1], written, &token, at_key, at_query)
              : sweep<false, true>(nullptr, written, &token, at_key, at_query);
            for (int n = 0; n < N; n++) {
                const Float v = load(token.value + column, n);
                const Float added = V::sub(V::mul(V::broadcast(token.value_factor), v),
                                           V::mul(V::broadcast(token.correction), at_key[n]));
                Float out = V::mul(V::broadcast(token.query_factor), at_query[n]);
                out = V::fma(V::broadcast(token.product), added, out);
                store(token.out + column, n, V::fma(V::broadcast(token.skip), v, out));
                written[n] = V::mul(V::broadcast(token.key_factor), added);
            }
        }
        Float none[N] = {};
        sweep<true, false>(&tokens[count - 1], written, nullptr, none, none);
    }
};

template <class V>
constexpr int kStripVectors = V::kRegisters >= 32 ? 4 : 2;

template <class V>
size_t recurrence_scratch_bytes(const quire_op &op) {
    return sizeof(float) * op.recurrence->key_dim * kStripVectors<V> * V::kWidth +
           sizeof(HeadToken) * kPieceTokens;
}

// All strips of one head over a piece of its tokens.
template <class V>
QUIRE_INLINE void run_strips(const quire_recurrence &r, const HeadToken *tokens, int64_t count,
                             const float *before, float *after, float *memory) {
    const int64_t stride = r.value_dim, wide = kStripVectors<V> * V::kWidth;
    const auto run_strip = [&](auto strip, int64_t column) {
        strip.read(before ? before + column : nullptr, stride);
        strip.run(tokens, count, column);
        strip.write(after + column, stride);
    };
    int64_t column = 0;
    for (; column + wide <= stride; column += wide) {
        run_strip(Strip<V, kStripVectors<V>>{memory, r.key_dim, wide}, column);
    }
    for (; column < stride; column += V::kWidth) {
        const int64_t columns = smaller(stride - column, V::kWidth);
        run_strip(Strip<V, 1>{memory, r.key_dim, columns}, column);
    }
}

template <class V>
void recurrence(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    const quire_recurrence &r = *op.recurrence;
    HeadToken *tokens = reinterpret_cast<HeadToken *>(scratch);
    float *memory = reinterpret_cast<float *>(tokens + kPieceTokens);
    for (int64_t unit = first; unit < last; unit++) {
        const int64_t h = unit % r.heads, size = int64_t(r.key_dim) * r.value_dim;
        for_each_segment(run, unit / r.heads, r.state + h * size, [&](Segment segment) {
            for (int64_t t = segment.first; t < segment.end; t += kPieceTokens) {
                const int64_t count = smaller(segment.end - t, kPieceTokens);
                for (int64_t i = 0; i < count; i++) {
                    tokens[i] = r.kind == QUIRE_DELTA_RULE ? delta_rule_token<V>(op, run, t + i, h)
                                                           : selective_token<V>(op, run, t + i, h);
                    tokens[i].out = run.row(op.out[0], t + i) + h * r.value_dim;
                }
                run_strips<V>(r, tokens, count, segment.before, segment.after, memory);
                segment.before = segment.after;
            }
        });
    }
}

}  // namespace
}  // namespace quire
