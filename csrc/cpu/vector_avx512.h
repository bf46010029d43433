// The vector trait for AVX-512 F, BW, DQ and VL, on top of AVX2.  See vector_portable.h for what each member means.
#ifndef QUIRE_VECTOR_AVX512_H
#define QUIRE_VECTOR_AVX512_H

#include "avx512.h"
#include "vector_avx2.h"

namespace quire {
namespace {

alignas(64) constexpr int16_t kTwice[32] = {0,  0,  1,  1,  2,  2,  3,  3,  4,  4,  5,
                                            5,  6,  6,  7,  7,  8,  8,  9,  9,  10, 10,
                                            11, 11, 12, 12, 13, 13, 14, 14, 15, 15};

struct Avx512Vector {
    static constexpr int kWidth = 16;
    static constexpr int kTileRows = 8, kRegisters = 32;

    using Float = __m512;

    static QUIRE_INLINE Float broadcast(float value) { return _mm512_set1_ps(value); }
    static QUIRE_INLINE Float zero() { return _mm512_setzero_ps(); }

    static QUIRE_INLINE __mmask16 mask(int64_t n) { return __mmask16((1u << n) - 1u); }

    static QUIRE_INLINE Float widen(__m256i halves, Half) { return _mm512_cvtph_ps(halves); }
    static QUIRE_INLINE Float widen(__m256i halves, BFloat16) {
        // One step in place of a widening and a shift, which compete with multiply-adds.
        const __m512i numbers = _mm512_castsi256_si512(halves), order = _mm512_load_si512(kTwice);
        return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, order, numbers));
    }
    static QUIRE_INLINE Float widen(__m128i codes) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
    }
    static QUIRE_INLINE __m256i narrow(Float a, Half) {
        return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
    }
    static QUIRE_INLINE __m256i narrow(Float a, BFloat16) {
        const __m512i bits = _mm512_castps_si512(a);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded =
            _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
        const __m512i high =
            _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(high, 16));
    }

    static QUIRE_INLINE Float load(const float *from) { return _mm512_loadu_ps(from); }
    template <class T>
    static QUIRE_INLINE Float load(const T *from) {
        return widen(_mm256_loadu_si256((const __m256i *)from), T());
    }
    static QUIRE_INLINE Float load(const Code8 *from) {
        return widen(_mm_loadu_si128((const __m128i *)from));
    }
    static QUIRE_INLINE Float widen4(uint64_t codes) {
        const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
        const __m512i words =
            _mm512_inserti32x8(_mm512_castsi256_si512(_mm256_set1_epi32(int32_t(codes))),
                               _mm256_set1_epi32(int32_t(codes >> 32)), 1);
        const __m512i each = _mm512_srlv_epi32(words, _mm512_broadcast_i32x8(shifts));
        return _mm512_cvtepi32_ps(_mm512_and_si512(each, _mm512_set1_epi32(15)));
    }
    static QUIRE_INLINE Float load(const Code4 *from) {
        uint64_t codes;
        memcpy(&codes, from, sizeof codes);
        return widen4(codes);
    }
    static QUIRE_INLINE Float load_partial(const Code4 *from, int64_t n) {
        uint64_t codes = 0;
        memcpy(&codes, from, (n + 1) / 2);
        return widen4(codes);
    }
    static QUIRE_INLINE Float widen8(__m128i bytes) {
        const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
        return _mm512_cvtph_ps(_mm256_and_si256(wide, _mm256_set1_epi16(int16_t(0xbfff))));
    }
    static QUIRE_INLINE Float load(const Float8 *from) {
        return widen8(_mm_loadu_si128((const __m128i *)from));
    }
    static QUIRE_INLINE Float load_once(const Float8 *from) { return load(from); }
    // As in Avx2Vector a row would take an eighth less, but four rows or more a tenth more.
    struct Subnormals {};
    static constexpr float kTinyUnit = kFloat8Unit;
    static QUIRE_INLINE Float load_tiny(const Float8 *from) { return load(from); }
    static QUIRE_INLINE Float load_partial(const Float8 *from, int64_t n) {
        return widen8(_mm_maskz_loadu_epi8(mask(n), from));
    }
    // Memory comes faster in halves than whole: 27 instead of 22 GB/s to a core of Zen 4.
    template <class T>
    static QUIRE_INLINE Float load_once(const T *from) {
        const __m512 half = _mm512_castps256_ps512(Avx2Vector::load(from));
        return _mm512_insertf32x8(half, Avx2Vector::load(from + 8), 1);
    }
    static QUIRE_INLINE Float load_partial(const float *from, int64_t n) {
        return _mm512_maskz_loadu_ps(mask(n), from);
    }
    template <class T>
    static QUIRE_INLINE Float load_partial(const T *from, int64_t n) {
        return widen(_mm256_maskz_loadu_epi16(mask(n), from), T());
    }
    static QUIRE_INLINE Float load_partial(const Code8 *from, int64_t n) {
        return widen(_mm_maskz_loadu_epi8(mask(n), from));
    }

    static QUIRE_INLINE void store(float *to, Float a) { _mm512_storeu_ps(to, a); }
    template <class T>
    static QUIRE_INLINE void store(T *to, Float a) {
        _mm256_storeu_si256((__m256i *)to, narrow(a, T()));
    }
    static QUIRE_INLINE void store_partial(float *to, Float a, int64_t n) {
        _mm512_mask_storeu_ps(to, mask(n), a);
    }
    template <class T>
    static QUIRE_INLINE void store_partial(T *to, Float a, int64_t n) {
        _mm256_mask_storeu_epi16(to, mask(n), narrow(a, T()));
    }

    static QUIRE_INLINE void keep(Float &a) { QUIRE_IN_REGISTER("+v", a); }

    static QUIRE_INLINE Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static QUIRE_INLINE Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
    static QUIRE_INLINE Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static QUIRE_INLINE Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
    static QUIRE_INLINE Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static QUIRE_INLINE Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
    static QUIRE_INLINE Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
    static QUIRE_INLINE Float round(Float a) {
        return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    static QUIRE_INLINE Float power_of_two(Float n) {
        const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
    }
    static QUIRE_INLINE int greater(Float a, Float b) {
        return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
    }

    using Int = __m512i;

    static QUIRE_INLINE Int int_zero() { return _mm512_setzero_si512(); }
    static QUIRE_INLINE Int load_pairs(const Code8 *from) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from));
    }
    static QUIRE_INLINE Int load_pairs(const Code4 *from) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
        const __m512i both = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
        return _mm512_and_si512(both, _mm512_set1_epi16(15));
    }
    static QUIRE_INLINE Int broadcast_pair(int32_t pair) { return _mm512_set1_epi32(pair); }
    static QUIRE_INLINE Int add_pair_products(Int a, Int b, Int sum) {
        return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
    }
    static constexpr bool kPairsOfValues = false;
    static QUIRE_INLINE Float int_to_float(Int a) { return _mm512_cvtepi32_ps(a); }

    static QUIRE_INLINE __m256 low(Float a) { return _mm512_castps512_ps256(a); }
    static QUIRE_INLINE __m256 high(Float a) { return _mm512_extractf32x8_ps(a, 1); }
    static QUIRE_INLINE __m256 fold(Float a) { return _mm256_add_ps(low(a), high(a)); }

    static QUIRE_INLINE float sum(Float a) { return Avx2Vector::sum(fold(a)); }
    static QUIRE_INLINE void sum4(Float a, Float b, Float c, Float d, float out[4]) {
        Avx2Vector::sum4(fold(a), fold(b), fold(c), fold(d), out);
    }
    static QUIRE_INLINE float max_lane(Float a) {
        return Avx2Vector::max_lane(_mm256_max_ps(low(a), high(a)));
    }
};

}  // namespace
}  // namespace quire

#endif
