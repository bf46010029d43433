// Products of bfloat16 weights and bfloat16 activations, for AVX-512 with BF16.
//
// vdpbf16ps adds two products to each float32 sum: twice the rate of multiply-adds in float32, and
// nothing is to be converted.  Subnormal numbers count as zero.
#ifndef QUIRE_BFLOAT16_AVX512_H
#define QUIRE_BFLOAT16_AVX512_H

#include "vector_avx512.h"

namespace quire {
namespace {

struct Avx512Bfloat16Products {
    using V = Avx512Vector;
    using Weight = BFloat16;
    using Input = BFloat16;
    using Vector = __m512i;
    static constexpr int kWidth = 32;

    static QUIRE_INLINE Vector load(const BFloat16 *from) { return _mm512_loadu_si512(from); }
    // In halves: see Avx512Vector.
    static QUIRE_INLINE Vector load_once(const BFloat16 *from) {
        const __m256i *halves = (const __m256i *)from;
        return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(halves)),
                                  _mm256_loadu_si256(halves + 1), 1);
    }
    static QUIRE_INLINE Vector load_partial(const BFloat16 *from, int64_t n) {
        return _mm512_maskz_loadu_epi16((1u << n) - 1u, from);
    }
    static QUIRE_INLINE void keep(Vector &x) { QUIRE_IN_REGISTER("+v", x); }
    static QUIRE_INLINE __m512 add(Vector x, Vector w, __m512 sum) {
        return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
    }

    static int64_t spin(int64_t iterations, float *sink) {
        constexpr int kChains = 12;
        __m512 sums[kChains];
        Vector x = _mm512_set1_epi16(short(*sink)), w = _mm512_set1_epi16(1);
        QUIRE_UNROLL
        for (int c = 0; c < kChains; c++) sums[c] = _mm512_set1_ps(float(c));
        for (int64_t i = 0; i < iterations; i++) {
            keep(x);
            QUIRE_UNROLL
            for (int c = 0; c < kChains; c++) sums[c] = add(x, w, sums[c]);
        }
        QUIRE_UNROLL
        for (int c = 1; c < kChains; c++) sums[0] = _mm512_add_ps(sums[0], sums[c]);
        *sink = V::sum(sums[0]);
        return iterations * kChains * kWidth * 2;
    }
};

}  // namespace
}  // namespace quire

#endif
