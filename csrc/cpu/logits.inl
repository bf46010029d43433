// Passes over one row of logits for the sampler.  NaN counts as smaller than every number.
namespace quire {
namespace {

constexpr float kLargest = 3.402823466e+38f;

template <class V>
float max_value(const float *x, int64_t n) {
    auto top = V::broadcast(-INFINITY), other = top;
    int64_t i = 0;
    for (; i + 2 * V::kWidth <= n; i += 2 * V::kWidth) {
        top = V::max(V::load(x + i), top);
        other = V::max(V::load(x + i + V::kWidth), other);
    }
    float best = V::max_lane(V::max(top, other));
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

template <class V>
struct WeightOf {
    typename V::Float max, temperature;

    WeightOf(float max, float temperature)
        : max(V::broadcast(max < kLargest ? max : kLargest)),
          temperature(V::broadcast(temperature)) {}

    QUIRE_INLINE typename V::Float operator()(typename V::Float x) const {
        const auto low = V::broadcast(-kLargest), high = V::broadcast(kLargest);
        const auto finite = V::min(V::max(x, low), high);
        return vector_exp<V>(V::div(V::sub(finite, max), temperature));
    }
};

// Sums in float32 over short runs and in float64 over the runs.
template <class V, class Each>
QUIRE_INLINE double sum_in_runs(int64_t n, Each each) {
    constexpr int64_t kRun = 64 * V::kWidth;
    double total = 0.0;
    int64_t i = 0;
    while (i + V::kWidth <= n) {
        const int64_t end = i + kRun <= n ? i + kRun : n / V::kWidth * V::kWidth;
        auto run = V::zero();
        for (; i < end; i += V::kWidth) run = V::add(run, each(i, int64_t(V::kWidth)));
        total += double(V::sum(run));
    }
    if (i < n) total += double(V::sum(each(i, n - i)));
    return total;
}

template <class V>
double softmax_weights(const float *x, int64_t n, float max, float temperature, float *w) {
    const WeightOf<V> weight_of(max, temperature);
    return sum_in_runs<V>(n, [&](int64_t i, int64_t lanes) {
        if (lanes == V::kWidth) {
            const auto weight = weight_of(V::load(x + i));
            V::store(w + i, weight);
            return weight;
        }
        V::store_partial(w + i, weight_of(V::load_partial(x + i, lanes)), lanes);
        return V::load_partial(w + i, lanes);
    });
}

template <class V>
double softmax_sum(const float *x, int64_t n, float max) {
    const WeightOf<V> weight_of(max, 1.0f);
    return sum_in_runs<V>(n, [&](int64_t i, int64_t lanes) {
        if (lanes == V::kWidth) return weight_of(V::load(x + i));
        float tail[V::kWidth];
        V::store(tail, weight_of(V::load_partial(x + i, lanes)));
        return V::load_partial(tail, lanes);
    });
}

template <class V>
int64_t find_above(const float *x, int64_t from, int64_t n, float bound) {
    const auto bounds = V::broadcast(bound);
    int64_t i = from;
    for (; i + V::kWidth <= n; i += V::kWidth) {
        const int hits = V::greater(V::load(x + i), bounds);
        if (hits) {
            int lane = 0;
            while (!(hits >> lane & 1)) lane++;
            return i + lane;
        }
    }
    for (; i < n; i++) {
        if (x[i] > bound) return i;
    }
    return n;
}

template <class V>
int64_t find_all_above(const float *x, int64_t n, float bound, int32_t *indices) {
    const auto bounds = V::broadcast(bound);
    int64_t count = 0, i = 0;
    for (; i + V::kWidth <= n; i += V::kWidth) {
        const int hits = V::greater(V::load(x + i), bounds);
        if (!hits) continue;
        for (int lane = 0; lane < V::kWidth; lane++) {
            indices[count] = int32_t(i + lane);  // overwritten by the next one unless it is a hit
            count += hits >> lane & 1;
        }
    }
    for (; i < n; i++) {
        if (x[i] > bound) indices[count++] = int32_t(i);
    }
    return count;
}

template <class V>
int64_t count_before(const float *x, int64_t n, float bound, int64_t before) {
    int64_t count = 0;
    for (int64_t i = 0; i < before; i++) count += x[i] >= bound;
    for (int64_t i = before; i < n; i++) count += x[i] > bound;
    return count;
}

}  // namespace
}  // namespace quire
