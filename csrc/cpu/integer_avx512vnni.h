// The integer trait for AVX-512 with VNNI.  See integer_portable.h for what each member means.
//
// vpdpbusd adds four products of unsigned weights and signed activations to 32-bit sums; the
// activation comes from memory, broadcast by the same instruction.
#ifndef QUIRE_INTEGER_AVX512VNNI_H
#define QUIRE_INTEGER_AVX512VNNI_H

#include <string.h>

#include "avx512.h"
#include "integer_avx2.h"
#include "packed.h"

namespace quire {
namespace {

struct Avx512VnniInteger {
    static constexpr int kStrips = 1, kMaxRows = 8;
    static constexpr int kAheadRows = 3, kAheadBytes = 4096;
    static constexpr int kLeastRows = 1, kJointRows = 0;
    static constexpr int kTogether = 1;
    static constexpr bool kSmallTables = false;

    using Float = __m512;
    using Activation = __m512i;
    using Sums4 = __m512i;
    using Sums8 = Sums4;
    using Bytes = __m512i;

    static QUIRE_INLINE Activation broadcast(const int8_t *codes) {
        int32_t four;
        memcpy(&four, codes, 4);
        return _mm512_set1_epi32(four);
    }
    static QUIRE_INLINE Bytes load(const uint8_t *from) { return _mm512_loadu_si512(from); }
    static QUIRE_INLINE Bytes low(Bytes bytes) {
        return _mm512_and_si512(bytes, _mm512_set1_epi8(15));
    }
    static QUIRE_INLINE Bytes high(Bytes bytes) { return low(_mm512_srli_epi16(bytes, 4)); }
    static QUIRE_INLINE Bytes codes8(Bytes bytes) { return bytes; }

    static QUIRE_INLINE Bytes load_table(const uint8_t *table) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
    }
    static QUIRE_INLINE Bytes look_up(Bytes table, Bytes codes) {
        return _mm512_shuffle_epi8(table, codes);
    }

    static QUIRE_INLINE int32_t correction(int32_t sum) { return -8 * sum; }
    static QUIRE_INLINE Sums4 start4(int32_t correction) { return _mm512_set1_epi32(correction); }
    static QUIRE_INLINE Sums8 start8(int32_t correction) { return start4(correction * 16); }
    static QUIRE_INLINE Sums8 start8_at_zero(int32_t) { return start4(0); }
    static QUIRE_INLINE Sums4 start4(int32_t correction, const uint8_t *zeros) {
        const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)zeros));
        return _mm512_mullo_epi32(_mm512_set1_epi32(correction >> 3), wide);
    }
    static QUIRE_INLINE Sums8 start8(int32_t correction, const uint8_t *zeros) {
        return start4(correction, zeros);
    }

    static QUIRE_INLINE void add(Sums4 &sums, Bytes weights, Activation a) {
        sums = _mm512_dpbusd_epi32(sums, weights, a);
    }
    static QUIRE_INLINE Float zero() { return _mm512_setzero_ps(); }
    static QUIRE_INLINE Float scales(const uint8_t *from) {
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
    }
    static QUIRE_INLINE Float accumulate(Float total, Sums4 sums, Float weights, float scale) {
        const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), weights);
        return _mm512_fmadd_ps(product, _mm512_set1_ps(scale), total);
    }
    static QUIRE_INLINE Float subtract(Float total, Float minimums, float sum) {
        return _mm512_fnmadd_ps(minimums, _mm512_set1_ps(sum), total);
    }
    static QUIRE_INLINE Float times(Float a, float factor) {
        return _mm512_mul_ps(a, _mm512_set1_ps(factor));
    }
    static QUIRE_INLINE Float plus(Float a, const float *from) {
        return _mm512_add_ps(a, _mm512_loadu_ps(from));
    }
    static QUIRE_INLINE void store(float *to, Float a) { _mm512_storeu_ps(to, a); }

    static QUIRE_INLINE void quantize(const float *x, float inverse, int8_t *codes, int16_t *sums,
                                      int32_t *all) {
        Avx2Integer::quantize(x, inverse, codes, sums, all);
        *all = correction(sums[0] + sums[1]);
    }

    static int64_t spin(int64_t iterations, float *sink) {
        constexpr int kChains = 10;
        __m512i sums[kChains], weights = _mm512_set1_epi8(3), a = _mm512_set1_epi8(char(*sink));
        unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA { sums[c] = _mm512_set1_epi32(c); });
        for (int64_t i = 0; i < iterations; i++) {
            QUIRE_IN_REGISTER("+v", a);
            unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA { add(sums[c], weights, a); });
        }
        unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA {
            if (c > 0) sums[0] = _mm512_add_epi32(sums[0], sums[c]);
        });
        *sink += float(_mm512_cvtsi512_si32(sums[0]));
        return iterations * kChains * 64 * 2;
    }
};

}  // namespace
}  // namespace quire

#endif
