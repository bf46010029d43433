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

// What a vector becomes in the cache: its scale and minimum, and the codes of kWidth numbers at a
// time, those behind the first n being 0.  A vector that is not finite has codes 0 and scale NaN.
template <class V, class Cache>
struct VectorCodes;

template <class V>
struct VectorCodes<V, Code8> {
    float most, scale, minimum = 0.0f;

    QUIRE_INLINE VectorCodes(const float *x, int64_t D)
        : most(finite_max<V>(x, D)), scale(most / 127.0f) {}

    QUIRE_INLINE void make(const float *x, int64_t n, uint8_t *codes) const {
        to_codes<V>(x, n, most, 127.0f, reinterpret_cast<int8_t *>(codes));
    }
};

template <class V>
struct VectorCodes<V, Float8> {
    static constexpr float kMost = 448.0f;
    float most, scale, minimum = 0.0f;

    QUIRE_INLINE VectorCodes(const float *x, int64_t D)
        : most(finite_max<V>(x, D)), scale(most / kMost) {}

    QUIRE_INLINE void make(const float *x, int64_t n, uint8_t *codes) const {
        for (int64_t i = 0; i < n; i++) {
            Float8 code;
            from_float(most > 0.0f ? x[i] / most * kMost : 0.0f, &code);
            codes[i] = code.bits;
        }
    }
};

template <class V>
struct VectorCodes<V, Code4> {
    float scale, minimum;

    QUIRE_INLINE VectorCodes(const float *x, int64_t D) {
        float low = x[0], high = x[0];
        for (int64_t i = 1; i < D; i++) {
            low = x[i] < low ? x[i] : low;
            high = x[i] > high ? x[i] : high;
        }
        const bool finite = finite_max<V>(x, D) >= 0.0f;
        scale = finite ? high / 15.0f - low / 15.0f : NAN;
        minimum = finite ? low : 0.0f;
    }

    // Halves, for the difference of two large numbers may be none.
    QUIRE_INLINE void make(const float *x, int64_t n, uint8_t *codes) const {
        const float step = 0.5f * scale;
        for (int64_t i = 0; i < n; i++) {
            const float part = (0.5f * x[i] - 0.5f * minimum) / step;
            const float code = part < 15.0f ? part : 15.0f, magic = 12582912.0f;
            codes[i] = step > 0.0f ? uint8_t(bits_of(code + magic) - bits_of(magic)) : 0;
        }
        if (n % 2) codes[n] = 0;
    }
};

}  // namespace
}  // namespace quire
