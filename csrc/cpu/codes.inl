// Vectors of numbers as integer codes: code = round(x / most * limit), most = max |x|.
namespace quire {
namespace {

// Largest magnitude of n numbers; NaN where one of them is infinite or not a number.
template <class V>
QUIRE_INLINE float finite_max(const float *x, int64_t n) {
    auto most = V::zero(), taint = V::zero();
    for_each_vector<V>(n, [&](auto load, auto) {
        const auto a = load(x);
        most = V::max(V::max(a, V::sub(V::zero(), a)), most);
        taint = V::add(taint, V::mul(a, V::zero()));
    });
    return V::sum(taint) == 0.0f ? V::max_lane(most) : NAN;
}

// Integers round(x / most * limit), 0 where most is 0 or not a number.
template <class V, class Integer>
QUIRE_INLINE void to_codes(const float *x, int64_t n, float most, float limit, Integer *codes) {
    const bool some = most > 0.0f;
    for (int64_t i = 0; i < n; i += V::kWidth) {
        const int64_t left = n - i < V::kWidth ? n - i : V::kWidth;
        const auto a = left < V::kWidth ? V::load_partial(x + i, left) : V::load(x + i);
        float lanes[V::kWidth];
        const auto part = V::div(a, V::broadcast(most));
        V::store(lanes, V::round(V::mul(part, V::broadcast(limit))));
        for (int64_t l = 0; l < left; l++) codes[i + l] = some ? Integer(lanes[l]) : Integer(0);
    }
}

}  // namespace
}  // namespace quire
