// Work without memory, to measure what the machine can do.
namespace quire {
namespace {

template <class V>
int64_t spin_fma(int64_t iterations, float *sink) {
    constexpr int kChains = 12;
    typename V::Float chains[kChains];
    QUIRE_UNROLL
    for (int c = 0; c < kChains; c++) chains[c] = V::broadcast(float(c) + *sink);
    const auto a = V::broadcast(0.999f + *sink), b = V::broadcast(0.001f);
    for (int64_t i = 0; i < iterations; i++) {
        QUIRE_UNROLL
        for (int c = 0; c < kChains; c++) chains[c] = V::fma(chains[c], a, b);
    }
    auto total = chains[0];
    QUIRE_UNROLL
    for (int c = 1; c < kChains; c++) total = V::add(total, chains[c]);
    *sink = V::sum(total);
    return iterations * kChains * V::kWidth * 2;
}

template <class V>
int64_t spin_read(const float *data, int64_t n, float *sink) {
    constexpr int kChains = 8;
    typename V::Float chains[kChains];
    QUIRE_UNROLL
    for (int c = 0; c < kChains; c++) chains[c] = V::zero();
    int64_t i = 0;
    for (; i + kChains * V::kWidth <= n; i += kChains * V::kWidth) {
        QUIRE_UNROLL
        for (int c = 0; c < kChains; c++) {
            chains[c] = V::add(chains[c], V::load(data + i + c * V::kWidth));
        }
    }
    for (int c = 0; c < kChains; c++) *sink += V::sum(chains[c]);
    return i * int64_t(sizeof(float));
}

}  // namespace
}  // namespace quire
