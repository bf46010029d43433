// The vector trait for AVX2 with FMA and F16C.  See vector_portable.h for what each member means.
#ifndef QUIRE_VECTOR_AVX2_H
#define QUIRE_VECTOR_AVX2_H

#include <immintrin.h>

#include "formats.h"

namespace quire {
namespace {

alignas(32) constexpr int32_t kLaneMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                0,  0,  0,  0,  0,  0,  0,  0};

// Eight 16-bit numbers, twice in a register, to the high halves of eight lanes: one step in place of
// a widening and a shift, which compete with multiply-adds for their execution units.
alignas(32) constexpr int8_t kHighHalves[32] = {-1, -1, 0,  1,  -1, -1, 2,  3,  -1, -1, 4,
                                                5,  -1, -1, 6,  7,  -1, -1, 8,  9,  -1, -1,
                                                10, 11, -1, -1, 12, 13, -1, -1, 14, 15};

constexpr int32_t kTinyBits = int32_t(0x87f00000);  // of a Float8 as a float32 of 2^-120 of it

// While it lives subnormal numbers are no zeros, whatever the process has told the processor.
struct WithSubnormals {
    const unsigned before = _mm_getcsr();
    WithSubnormals() { _mm_setcsr(before & ~0x8040u); }
    ~WithSubnormals() { _mm_setcsr(before); }
};

struct Avx2Vector {
    static constexpr int kWidth = 8;
    static constexpr int kTileRows = 4, kRegisters = 16;

    using Float = __m256;
    using Subnormals = WithSubnormals;

    static QUIRE_INLINE Float broadcast(float value) { return _mm256_set1_ps(value); }
    static QUIRE_INLINE Float zero() { return _mm256_setzero_ps(); }

    static QUIRE_INLINE __m256i mask(int64_t n) {
        return _mm256_loadu_si256((const __m256i *)(kLaneMasks + 8 - n));
    }

    // The table stays in memory: all registers belong to the matrix kernel's sums.
    static QUIRE_INLINE Float shuffle_bytes(__m256i bytes, const int8_t *table) {
#if defined(_MSC_VER)
        return _mm256_castsi256_ps(_mm256_shuffle_epi8(bytes, *(const __m256i *)table));
#else
        Float out;
        asm("vpshufb %2, %1, %0" : "=x"(out) : "x"(bytes), "m"(*(const __m256i *)table));
        return out;
#endif
    }

    static QUIRE_INLINE Float load(const float *from) { return _mm256_loadu_ps(from); }
    static QUIRE_INLINE Float load(const Half *from) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
    }
    static QUIRE_INLINE Float load(const BFloat16 *from) {
        const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)from));
        return shuffle_bytes(twice, kHighHalves);
    }
    static QUIRE_INLINE Float load(const Code8 *from) {
        const __m128i codes = _mm_loadl_epi64((const __m128i *)from);
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
    }

    static QUIRE_INLINE Float load(const Code4 *from) {
        int32_t eight;
        memcpy(&eight, from, sizeof eight);
        const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
        const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(eight), shifts);
        return _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(15)));
    }

    static QUIRE_INLINE Float load(const Float8 *from) {
        const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)from));
        return _mm256_cvtph_ps(
            _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(int16_t(0xbfff))));
    }

    // Sign, exponent and fraction to their places: half the time of a conversion.
    static constexpr float kTinyUnit = 1.329227995784916e36f;  // 2^120
    static QUIRE_INLINE Float load_tiny(const Float8 *from) {
        const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
        const __m256i bits = _mm256_set1_epi32(kTinyBits);
        return _mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(wide, 20), bits));
    }

    template <class T>
    static QUIRE_INLINE Float load_once(const T *from) {
        return load(from);
    }
    static QUIRE_INLINE Float load_partial(const float *from, int64_t n) {
        return _mm256_maskload_ps(from, mask(n));
    }
    template <class T>
    static QUIRE_INLINE Float load_partial(const T *from, int64_t n) {
        T lanes[8] = {};
        for (int64_t i = 0; i < n; i++) lanes[i] = from[i];
        return load(lanes);
    }

    static QUIRE_INLINE Float load_partial(const Code4 *from, int64_t n) {
        Code4 codes[4] = {};
        for (int64_t i = 0; i < (n + 1) / 2; i++) codes[i] = from[i];
        return load(codes);
    }

    static QUIRE_INLINE void store(float *to, Float a) { _mm256_storeu_ps(to, a); }
    static QUIRE_INLINE void store(Half *to, Float a) {
        _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    }
    static QUIRE_INLINE void store(BFloat16 *to, Float a) {
        const __m256i bits = _mm256_castps_si256(a);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded =
            _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
        const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
        const __m128i packed =
            _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
        _mm_storeu_si128((__m128i *)to, packed);
    }

    static QUIRE_INLINE void store_partial(float *to, Float a, int64_t n) {
        _mm256_maskstore_ps(to, mask(n), a);
    }
    template <class T>
    static QUIRE_INLINE void store_partial(T *to, Float a, int64_t n) {
        T lanes[8];
        store(lanes, a);
        for (int64_t i = 0; i < n; i++) to[i] = lanes[i];
    }

    static QUIRE_INLINE void keep(Float &a) { QUIRE_IN_REGISTER("+x", a); }

    static QUIRE_INLINE Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static QUIRE_INLINE Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
    static QUIRE_INLINE Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static QUIRE_INLINE Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
    static QUIRE_INLINE Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static QUIRE_INLINE Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
    static QUIRE_INLINE Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
    static QUIRE_INLINE Float round(Float a) {
        return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    static QUIRE_INLINE Float power_of_two(Float n) {
        const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
    }
    static QUIRE_INLINE int greater(Float a, Float b) {
        return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ));
    }

    using Int = __m256i;

    static QUIRE_INLINE Int int_zero() { return _mm256_setzero_si256(); }
    static QUIRE_INLINE Int load_pairs(const Code8 *from) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
    }
    static QUIRE_INLINE Int load_pairs(const Code4 *from) {
        const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
        const __m256i both = _mm256_or_si256(bytes, _mm256_slli_epi32(bytes, 12));
        return _mm256_and_si256(both, _mm256_set1_epi16(15));
    }
    static QUIRE_INLINE Int broadcast_pair(int32_t pair) { return _mm256_set1_epi32(pair); }
    // Kept in the register that it was in: GCC would copy each sum once more, and run out of them.
    static QUIRE_INLINE Int add_pair_products(Int a, Int b, Int sum) {
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
        QUIRE_IN_REGISTER("+x", sum);
        return sum;
    }
    static QUIRE_INLINE Float int_to_float(Int a) { return _mm256_cvtepi32_ps(a); }

    static constexpr bool kPairsOfValues = true;
    static QUIRE_INLINE void store_pairs(int32_t *to, Float a) {
        const __m256i wide = _mm256_cvtps_epi32(a);
        const __m128i packed =
            _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storeu_si128((__m128i *)to, packed);
    }
    static QUIRE_INLINE void widen_pairs(const Code4 *from, Code8 *to) {
        const __m128i bytes = _mm_loadl_epi64((const __m128i *)from);
        const __m128i low = low_codes(bytes), high = low_codes(_mm_srli_epi16(bytes, 4));
        _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi8(low, high));
    }
    static QUIRE_INLINE __m128i low_codes(__m128i bytes) {
        return _mm_and_si128(bytes, _mm_set1_epi8(15));
    }
    static QUIRE_INLINE void pair_values(const Code8 *first, const Code8 *second, Code8 *to) {
        QUIRE_UNROLL
        for (int i = 0; i < 32; i += 16) {
            const __m128i a = _mm_loadu_si128((const __m128i *)(first + i));
            const __m128i b = _mm_loadu_si128((const __m128i *)(second + i));
            _mm_storeu_si128((__m128i *)(to + 2 * i), _mm_unpacklo_epi8(a, b));
            _mm_storeu_si128((__m128i *)(to + 2 * i + 16), _mm_unpackhi_epi8(a, b));
        }
    }
    static QUIRE_INLINE void pair_values(const Code4 *first, const Code4 *second, Code8 *to) {
        const __m128i a = _mm_loadu_si128((const __m128i *)first);
        const __m128i b = _mm_loadu_si128((const __m128i *)second);
        const __m128i a_even = low_codes(a), a_odd = low_codes(_mm_srli_epi16(a, 4));
        const __m128i b_even = low_codes(b), b_odd = low_codes(_mm_srli_epi16(b, 4));
        const __m128i even[2] = {_mm_unpacklo_epi8(a_even, b_even),
                                 _mm_unpackhi_epi8(a_even, b_even)};
        const __m128i odd[2] = {_mm_unpacklo_epi8(a_odd, b_odd), _mm_unpackhi_epi8(a_odd, b_odd)};
        QUIRE_UNROLL
        for (int i = 0; i < 2; i++, to += 32) {
            _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi16(even[i], odd[i]));
            _mm_storeu_si128((__m128i *)(to + 16), _mm_unpackhi_epi16(even[i], odd[i]));
        }
    }

    static QUIRE_INLINE float sum(Float a) {
        const __m256 pairs = _mm256_hadd_ps(a, a), fours = _mm256_hadd_ps(pairs, pairs);
        return _mm_cvtss_f32(
            _mm_add_ss(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
    }
    static QUIRE_INLINE void sum4(Float a, Float b, Float c, Float d, float out[4]) {
        const __m256 fours = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        _mm_storeu_ps(out,
                      _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
    }
    static QUIRE_INLINE float max_lane(Float a) {
        __m128 out = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        out = _mm_max_ps(out, _mm_movehl_ps(out, out));
        return _mm_cvtss_f32(_mm_max_ss(out, _mm_movehdup_ps(out)));
    }
};

}  // namespace
}  // namespace quire

#endif
