// The integer trait for AVX2.  See integer_portable.h for what each member means.
//
// A 4-bit by 8-bit product is at most 15 * 128, so the sums of pairs that vpmaddubsw makes never
// saturate, and eight of them with the correction for the zero point 8 fit 16 bits: they are added
// there and widened once per block; adding may wrap on the way, the end always fits.  An 8-bit code c
// is c - 128: its magnitude meets the activation with its sign, at most 128 * 127 twice, and each sum
// of two products is widened at once.
#ifndef QUIRE_INTEGER_AVX2_H
#define QUIRE_INTEGER_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "packed.h"
#include "unroll.h"

namespace quire {
namespace {

struct Avx2Integer {
    static constexpr int kStrips = 2, kMaxRows = 6;
    static constexpr int kAheadRows = 1, kAheadBytes = 2048;
    static constexpr int kLeastRows = 1, kJointRows = 0;
    static constexpr int kTogether = 2;
    static constexpr bool kSmallTables = true;

    using Float = __m256;
    using Activation = __m256i;
    using Sums4 = __m256i;  // pairs of 16-bit sums, one pair a row
    struct Sums8 {
        __m256i sums;  // of 32 bits
    };
    using Bytes = __m256i;

    static QUIRE_INLINE Activation broadcast(const int8_t *codes) {
        int32_t four;
        memcpy(&four, codes, 4);
        return _mm256_set1_epi32(four);
    }
    static QUIRE_INLINE Bytes load(const uint8_t *from) {
        return _mm256_loadu_si256((const __m256i *)from);
    }
    static QUIRE_INLINE Bytes low(Bytes bytes) {
        return _mm256_and_si256(bytes, _mm256_set1_epi8(15));
    }
    static QUIRE_INLINE Bytes high(Bytes bytes) { return low(_mm256_srli_epi16(bytes, 4)); }
    static QUIRE_INLINE Bytes codes8(Bytes bytes) {
        return _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    }

    static QUIRE_INLINE Bytes load_table(const uint8_t *table) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    }
    static QUIRE_INLINE Bytes look_up(Bytes table, Bytes codes) {
        return _mm256_shuffle_epi8(table, codes);
    }

    // A correction is two numbers of 16 bits.  Here one takes all: sums of 8 products have the room.
    static QUIRE_INLINE int32_t correction(int32_t sum) { return uint16_t(-8 * sum); }
    static QUIRE_INLINE Sums4 start4(int32_t correction) { return _mm256_set1_epi32(correction); }
    static QUIRE_INLINE Sums4 start_small_table(int32_t correction) {
        return _mm256_slli_epi16(_mm256_set1_epi32(correction), 1);
    }
    static QUIRE_INLINE Sums8 start8(int32_t) { return {_mm256_setzero_si256()}; }
    static QUIRE_INLINE Sums8 start8_at_zero(int32_t correction) {
        return {_mm256_madd_epi16(_mm256_set1_epi32(correction), _mm256_set1_epi16(-16))};
    }
    static QUIRE_INLINE Sums4 start4(int32_t correction, const uint8_t *zeros) {
        return _mm256_mullo_epi16(minus_sum(correction), wide(zeros));
    }
    static QUIRE_INLINE Sums8 start8(int32_t correction, const uint8_t *zeros) {
        const __m256i zero = _mm256_sub_epi16(wide(zeros), _mm256_set1_epi16(128));
        return {_mm256_madd_epi16(minus_sum(correction), zero)};
    }

    static QUIRE_INLINE void add(Sums4 &sums, Bytes weights, Activation a) {
#if defined(__GNUC__)
        // Left to itself the compiler reorders the additions and runs out of registers.
        __m256i products;
        __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
                : "+x"(sums), "=&x"(products)
                : "x"(weights), "x"(a));
#else
        sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, a));
#endif
    }
    static QUIRE_INLINE void add(Sums8 &sums, Bytes weights, Activation a) {
        const __m256i magnitudes = _mm256_abs_epi8(weights), ones = _mm256_set1_epi16(1);
#if defined(__GNUC__)
        __m256i products;
        __asm__(
            "vpsignb %3, %4, %1\n\tvpmaddubsw %1, %2, %1\n\t"
            "vpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(sums.sums), "=&x"(products)
            : "x"(magnitudes), "x"(weights), "x"(a), "xm"(ones));
#else
        const __m256i products = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(a, weights));
        sums.sums = _mm256_add_epi32(sums.sums, _mm256_madd_epi16(products, ones));
#endif
    }
    static QUIRE_INLINE Float zero() { return _mm256_setzero_ps(); }
    static QUIRE_INLINE Float scales(const uint8_t *from) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
    }
    static QUIRE_INLINE Float accumulate(Float total, Sums4 sums, Float weights, float scale) {
        return scaled(total, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)), weights, scale);
    }
    static QUIRE_INLINE Float accumulate(Float total, Sums8 sums, Float weights, float scale) {
        return scaled(total, sums.sums, weights, scale);
    }
    static QUIRE_INLINE Float subtract(Float total, Float minimums, float sum) {
        return _mm256_fnmadd_ps(minimums, _mm256_set1_ps(sum), total);
    }
    static QUIRE_INLINE Float times(Float a, float factor) {
        return _mm256_mul_ps(a, _mm256_set1_ps(factor));
    }
    static QUIRE_INLINE Float plus(Float a, const float *from) {
        return _mm256_add_ps(a, _mm256_loadu_ps(from));
    }
    static QUIRE_INLINE void store(float *to, Float a) { _mm256_storeu_ps(to, a); }

    static QUIRE_INLINE void quantize(const float *x, float inverse, int8_t *codes, int16_t *sums,
                                      int32_t *all) {
        const __m256 factor = _mm256_set1_ps(inverse);
        const auto rounded = [&](int i) {
            return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
        };
        const __m256i words[2] = {_mm256_packs_epi32(rounded(0), rounded(8)),
                                  _mm256_packs_epi32(rounded(16), rounded(24))};
        const __m256i bytes = _mm256_permutevar8x32_epi32(
            _mm256_packs_epi16(words[0], words[1]), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)codes, bytes);
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
        pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
        const __m128i halves[2] = {_mm256_castsi256_si128(pairs),
                                   _mm256_extracti128_si256(pairs, 1)};
        for (int h = 0; h < 2; h++) {
            const int32_t pair = _mm_cvtsi128_si32(halves[h]);
            sums[h] = int16_t(int16_t(pair) + (pair >> 16));
        }
        const __m128i sum = _mm_add_epi16(halves[0], halves[1]);
        *all = _mm_cvtsi128_si32(_mm_slli_epi16(_mm_sub_epi16(_mm_setzero_si128(), sum), 3));
    }

    static int64_t spin(int64_t iterations, float *sink) {
        constexpr int kChains = 10;
        __m256i sums[kChains], weights = _mm256_set1_epi8(3), a = _mm256_set1_epi8(char(*sink));
        unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA { sums[c] = _mm256_set1_epi32(c); });
        for (int64_t i = 0; i < iterations; i++) {
            unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA { add(sums[c], weights, a); });
        }
        unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA {
            if (c > 0) sums[0] = _mm256_add_epi16(sums[0], sums[c]);
        });
        *sink += float(_mm256_extract_epi16(sums[0], 0));
        return iterations * kChains * 32 * 2;
    }

  private:
    static QUIRE_INLINE Float scaled(Float total, __m256i sums, Float weights, float scale) {
        const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), weights);
        return _mm256_fmadd_ps(product, _mm256_set1_ps(scale), total);
    }
    // Of the activations' codes, as two numbers of 16 bits, which add up to it.
    static QUIRE_INLINE __m256i minus_sum(int32_t correction) {
        return _mm256_srai_epi16(_mm256_set1_epi32(correction), 3);
    }
    // Eight zero points, each twice in 16 bits.
    static QUIRE_INLINE __m256i wide(const uint8_t *zeros) {
        const __m256i words = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)zeros));
        return _mm256_or_si256(words, _mm256_slli_epi32(words, 16));
    }
};

}  // namespace
}  // namespace quire

#endif
