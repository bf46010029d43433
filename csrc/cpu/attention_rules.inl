// What some models do to scores besides scaling them.  Scores are exponents of 2 here.
#include <math.h>

namespace quire {
namespace {

constexpr float kLog2E = 1.44269504088896341f;

// What the query at a position is multiplied by.
inline float query_factor(const quire_op &op, int64_t position) {
    const double length = op.query_length, p = double(position);
    if (op.query_rule == QUIRE_QUERY_LOG) {
        return position < op.query_length ? 1.0f : float(log(p + 1) / log(length));
    }
    return float(1 + op.query_factor * log(1 + floor((p + op.query_offset) / length)));
}

// cap * tanh(score / cap), tanh x = 1 - 2 / (1 + exp 2x).
template <class V>
void cap_scores(float cap, float *score, int64_t from, int64_t to) {
    const auto slope = V::broadcast(2.0f / cap), one = V::broadcast(1.0f);
    const auto most = V::broadcast(cap), twice = V::broadcast(-2.0f * cap);
    for (int64_t p = from; p < to; p += V::kWidth) {
        const auto e = vector_exp<V>(V::mul(V::load(score + p), slope));
        V::store(score + p, V::add(most, V::div(twice, V::add(one, e))));
    }
}

// Takes off slope for each position between a key, at p, and the query.
template <class V>
void lower_by_distance(float slope, int64_t query, float *score, int64_t from, int64_t to) {
    float lanes[V::kWidth];
    for (int i = 0; i < V::kWidth; i++) lanes[i] = float(i);
    const auto steep = V::broadcast(slope), lane = V::load(lanes);
    for (int64_t p = from; p < to; p += V::kWidth) {
        const auto behind = V::add(V::broadcast(float(p - query)), lane);
        V::store(score + p, V::fma(behind, steep, V::load(score + p)));
    }
}

// Does what an op says to the scores of a row whose query is at `query`.
template <class V>
void bend_scores(const quire_op &op, int64_t head, int64_t query, float *score, int64_t from,
                 int64_t to) {
    if (op.cap > 0) cap_scores<V>(op.cap * kLog2E, score, from, to);
    if (op.vectors[1]) {
        lower_by_distance<V>(op.vectors[1][head] * kLog2E, query, score, from, to);
    }
}

}  // namespace
}  // namespace quire
