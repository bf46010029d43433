// Quantizes activation rows to int8 in blocks of 32, as packed.h lays them out.
namespace quire {
namespace {

// scale = largest magnitude / 127, code = x / scale rounded to nearest even.  A block with a number
// that is not finite gets a scale that is none, so that it shows in every result.
template <class V, class Q>
QUIRE_INLINE void quantize_block(const float *x, QuantizedBlock *to) {
    static_assert(kBlock % V::kWidth == 0, "a block is whole vectors");
    auto largest = V::zero(), wrong = V::zero();
    QUIRE_UNROLL
    for (int i = 0; i < kBlock; i += V::kWidth) {
        const auto a = V::load(x + i);
        largest = V::max(V::max(a, V::sub(V::zero(), a)), largest);
        wrong = V::fma(a, V::zero(), wrong);
    }
    const float amax = V::max_lane(largest);
    to->scale = amax / 127.0f + V::sum(wrong);
    const float inverse = amax > 0.0f ? 127.0f / amax : 0.0f;
    Q::quantize(x, inverse <= FLT_MAX ? inverse : 0.0f, to->codes, to->code_sums, &to->correction);
    to->sum = float(to->code_sums[0] + to->code_sums[1]) * to->scale;
}

// order: which number of x is the k-th; null: the k-th.
template <class V, class Q>
void quantize_row(const float *x, const int32_t *order, int64_t cols, float *to) {
    QuantizedBlock *block = reinterpret_cast<QuantizedBlock *>(to);
    for (int64_t k = 0; k < cols; k += kBlock, block++) {
        if (!order && cols - k >= kBlock) {
            quantize_block<V, Q>(x + k, block);
            continue;
        }
        float gathered[kBlock] = {};
        const int64_t count = smaller(cols - k, kBlock);
        for (int64_t i = 0; i < count; i++) gathered[i] = x[order ? order[k + i] : k + i];
        quantize_block<V, Q>(gathered, block);
    }
}

}  // namespace
}  // namespace quire
