// The AVX-512 instructions that the kernels use, by those of AVX2 and plain C++: a build with GCC and
// -DQUIRE_MODEL_AVX512=ON runs these kernels on machines without.  In this namespace the names here hide
// the compiler's own.
//
// Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2; Intel's Intrinsics Guide.
#ifndef QUIRE_AVX512_MODEL_H
#define QUIRE_AVX512_MODEL_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "compiler.h"

// No register holds such a vector.
#undef QUIRE_IN_REGISTER
#define QUIRE_IN_REGISTER(constraint, vector) ((void)(vector))

namespace quire {
namespace {

// Halves of 256 bits.
union Halves {
    __m512 floats;
    __m512i integers;
    __m256 half_floats[2];
    __m256i half_integers[2];
};
QUIRE_INLINE __m512 join(__m256 low, __m256 high) {
    Halves all;
    all.half_floats[0] = low, all.half_floats[1] = high;
    return all.floats;
}
QUIRE_INLINE __m512i join(__m256i low, __m256i high) {
    Halves all;
    all.half_integers[0] = low, all.half_integers[1] = high;
    return all.integers;
}
QUIRE_INLINE __m256 half(__m512 a, int which) {
    Halves all;
    all.floats = a;
    return all.half_floats[which];
}
QUIRE_INLINE __m256i half(__m512i a, int which) {
    Halves all;
    all.integers = a;
    return all.half_integers[which];
}
QUIRE_INLINE __m128i half(__m256i a, int which) {
    return which ? _mm256_extracti128_si256(a, 1) : _mm256_castsi256_si128(a);
}
QUIRE_INLINE __m128i half(__m128i a, int which) {
    return which ? _mm_srli_si128(a, 8) : a;
}

// What AVX2 does as well, half by half.
#define QUIRE_UNARY(Result, name, Vector)                                  \
    QUIRE_INLINE Result _mm512_##name(Vector a) {                          \
        return join(_mm256_##name(half(a, 0)), _mm256_##name(half(a, 1))); \
    }
#define QUIRE_BINARY(Vector, name)                                                                 \
    QUIRE_INLINE Vector _mm512_##name(Vector a, Vector b) {                                        \
        return join(_mm256_##name(half(a, 0), half(b, 0)), _mm256_##name(half(a, 1), half(b, 1))); \
    }
#define QUIRE_TERNARY(Vector, name)                                     \
    QUIRE_INLINE Vector _mm512_##name(Vector a, Vector b, Vector c) {   \
        return join(_mm256_##name(half(a, 0), half(b, 0), half(c, 0)),  \
                    _mm256_##name(half(a, 1), half(b, 1), half(c, 1))); \
    }
#define QUIRE_SHIFT(name)                                                                \
    QUIRE_INLINE __m512i _mm512_##name(__m512i a, int count) {                           \
        return join(_mm256_##name(half(a, 0), count), _mm256_##name(half(a, 1), count)); \
    }
QUIRE_UNARY(__m512, cvtepi32_ps, __m512i)
QUIRE_UNARY(__m512, cvtph_ps, __m256i)
QUIRE_UNARY(__m512i, cvtps_epi32, __m512)
QUIRE_UNARY(__m512i, cvtepi8_epi16, __m256i)
QUIRE_UNARY(__m512i, cvtepi8_epi32, __m128i)
QUIRE_UNARY(__m512i, cvtepu8_epi32, __m128i)
QUIRE_BINARY(__m512, add_ps)
QUIRE_BINARY(__m512, sub_ps)
QUIRE_BINARY(__m512, mul_ps)
QUIRE_BINARY(__m512, div_ps)
QUIRE_BINARY(__m512, max_ps)
QUIRE_BINARY(__m512, min_ps)
QUIRE_BINARY(__m512i, add_epi32)
QUIRE_BINARY(__m512i, madd_epi16)
QUIRE_BINARY(__m512i, mullo_epi32)
QUIRE_BINARY(__m512i, shuffle_epi8)
QUIRE_BINARY(__m512i, srlv_epi32)
QUIRE_TERNARY(__m512, fmadd_ps)
QUIRE_TERNARY(__m512, fnmadd_ps)
QUIRE_SHIFT(slli_epi32)
QUIRE_SHIFT(srli_epi16)
QUIRE_SHIFT(srli_epi32)
#undef QUIRE_UNARY
#undef QUIRE_BINARY
#undef QUIRE_TERNARY
#undef QUIRE_SHIFT

QUIRE_INLINE __m512i _mm512_and_si512(__m512i a, __m512i b) {
    return a & b;
}
QUIRE_INLINE __m512i _mm512_or_si512(__m512i a, __m512i b) {
    return a | b;
}
QUIRE_INLINE __m256i _mm512_cvtps_ph(__m512 a, int rounding) {
    return _mm256_set_m128i(_mm256_cvtps_ph(half(a, 1), rounding),
                            _mm256_cvtps_ph(half(a, 0), rounding));
}
QUIRE_INLINE __m512 _mm512_roundscale_ps(__m512 a, int rounding) {
    return join(_mm256_round_ps(half(a, 0), rounding), _mm256_round_ps(half(a, 1), rounding));
}
QUIRE_INLINE __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
    return __mmask16(_mm256_movemask_ps(_mm256_cmp_ps(half(a, 0), half(b, 0), how)) |
                     _mm256_movemask_ps(_mm256_cmp_ps(half(a, 1), half(b, 1), how)) << 8);
}

QUIRE_INLINE __m512 _mm512_setzero_ps() {
    return __m512{};
}
QUIRE_INLINE __m512i _mm512_setzero_si512() {
    return __m512i{};
}
QUIRE_INLINE __m512 _mm512_set1_ps(float a) {
    return join(_mm256_set1_ps(a), _mm256_set1_ps(a));
}
QUIRE_INLINE __m512i twice(__m256i a) {
    return join(a, a);
}
QUIRE_INLINE __m512i _mm512_set1_epi8(char a) {
    return twice(_mm256_set1_epi8(a));
}
QUIRE_INLINE __m512i _mm512_set1_epi16(short a) {
    return twice(_mm256_set1_epi16(a));
}
QUIRE_INLINE __m512i _mm512_set1_epi32(int a) {
    return twice(_mm256_set1_epi32(a));
}
QUIRE_INLINE __m512i _mm512_broadcast_i32x8(__m256i a) {
    return twice(a);
}
QUIRE_INLINE __m512i _mm512_broadcast_i32x4(__m128i a) {
    return twice(_mm256_broadcastsi128_si256(a));
}

// The upper half of what is cast is undefined: a number here that shows when it is read.
QUIRE_INLINE __m256i undefined() {
    return _mm256_set1_epi32(0x7fc12345);
}
QUIRE_INLINE __m512i _mm512_castsi256_si512(__m256i a) {
    return join(a, undefined());
}
QUIRE_INLINE __m512 _mm512_castps256_ps512(__m256 a) {
    return join(a, (__m256)undefined());
}
QUIRE_INLINE __m512i _mm512_castps_si512(__m512 a) {
    return (__m512i)a;
}
QUIRE_INLINE __m512 _mm512_castsi512_ps(__m512i a) {
    return (__m512)a;
}
QUIRE_INLINE __m256 _mm512_castps512_ps256(__m512 a) {
    return half(a, 0);
}
QUIRE_INLINE int32_t _mm512_cvtsi512_si32(__m512i a) {
    return ((__v16si)a)[0];
}
QUIRE_INLINE __m256 _mm512_extractf32x8_ps(__m512 a, int which) {
    return half(a, which);
}
QUIRE_INLINE __m512 _mm512_insertf32x8(__m512 a, __m256 b, int which) {
    return which ? join(half(a, 0), b) : join(b, half(a, 1));
}
QUIRE_INLINE __m512i _mm512_inserti32x8(__m512i a, __m256i b, int which) {
    return which ? join(half(a, 0), b) : join(b, half(a, 1));
}
QUIRE_INLINE __m512i _mm512_inserti64x4(__m512i a, __m256i b, int which) {
    return _mm512_inserti32x8(a, b, which);
}

template <class Vector>
QUIRE_INLINE Vector load_any(const void *from) {
    Vector a;
    memcpy(&a, from, sizeof a);
    return a;
}
QUIRE_INLINE void need_alignment(const void *address) {
    if (uintptr_t(address) % 64 != 0) __builtin_trap();
}
QUIRE_INLINE __m512 _mm512_loadu_ps(const void *from) {
    return load_any<__m512>(from);
}
QUIRE_INLINE __m512i _mm512_loadu_si512(const void *from) {
    return load_any<__m512i>(from);
}
QUIRE_INLINE __m512i _mm512_load_si512(const void *from) {
    need_alignment(from);
    return load_any<__m512i>(from);
}
QUIRE_INLINE void _mm512_storeu_ps(void *to, __m512 a) {
    memcpy(to, &a, sizeof a);
}
QUIRE_INLINE void _mm512_store_si512(void *to, __m512i a) {
    need_alignment(to);
    memcpy(to, &a, sizeof a);
}

// Elements whose bit in a mask is not set: zero when loaded, and memory is touched neither way.
template <class Element, class Vector>
QUIRE_INLINE Vector load_masked(uint32_t mask, const void *from) {
    constexpr int kElements = sizeof(Vector) / sizeof(Element);
    Element elements[kElements] = {};
    for (int i = 0; i < kElements; i++) {
        if (mask >> i & 1) elements[i] = load_any<Element>((const Element *)from + i);
    }
    return load_any<Vector>(elements);
}
template <class Element, class Vector>
QUIRE_INLINE void store_masked(void *to, uint32_t mask, Vector a) {
    constexpr int kElements = sizeof(Vector) / sizeof(Element);
    const char *elements = (const char *)&a;
    for (int i = 0; i < kElements; i++) {
        if (mask >> i & 1)
            memcpy((Element *)to + i, (const Element *)elements + i, sizeof(Element));
    }
}
QUIRE_INLINE __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void *from) {
    return load_masked<uint32_t, __m512>(mask, from);
}
QUIRE_INLINE __m512i _mm512_maskz_loadu_epi16(__mmask32 mask, const void *from) {
    return load_masked<uint16_t, __m512i>(mask, from);
}
QUIRE_INLINE __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void *from) {
    return load_masked<uint16_t, __m256i>(mask, from);
}
QUIRE_INLINE __m128i _mm_maskz_loadu_epi8(__mmask16 mask, const void *from) {
    return load_masked<uint8_t, __m128i>(mask, from);
}
QUIRE_INLINE void _mm512_mask_storeu_ps(void *to, __mmask16 mask, __m512 a) {
    store_masked<uint32_t>(to, mask, a);
}
QUIRE_INLINE void _mm256_mask_storeu_epi16(void *to, __mmask16 mask, __m256i a) {
    store_masked<uint16_t>(to, mask, a);
}

QUIRE_INLINE __m512i _mm512_mask_or_epi32(__m512i otherwise, __mmask16 mask, __m512i a, __m512i b) {
    const __v16si either = (__v16si)(a | b);
    __v16si result = (__v16si)otherwise;
    for (int i = 0; i < 16; i++) result[i] = mask >> i & 1 ? either[i] : result[i];
    return (__m512i)result;
}
QUIRE_INLINE __m512i _mm512_maskz_permutexvar_epi16(__mmask32 mask, __m512i order, __m512i a) {
    const __v32hi from = (__v32hi)a, indices = (__v32hi)order;
    __v32hi result = {};
    for (int i = 0; i < 32; i++) result[i] = mask >> i & 1 ? from[indices[i] & 31] : 0;
    return (__m512i)result;
}
QUIRE_INLINE __m256i _mm512_cvtepi32_epi16(__m512i a) {
    return (__m256i) __builtin_convertvector((__v16si)a, __v16hi);
}

// To each sum, four products of unsigned and signed bytes: nothing saturates.
QUIRE_INLINE __m256i four_products(__m256i unsigned_bytes, __m256i signed_bytes) {
    const __m256i even = _mm256_and_si256(unsigned_bytes, _mm256_set1_epi16(255));
    const __m256i signed_even = _mm256_srai_epi16(_mm256_slli_epi16(signed_bytes, 8), 8);
    const __m256i odd = _mm256_srli_epi16(unsigned_bytes, 8);
    return _mm256_add_epi32(_mm256_madd_epi16(even, signed_even),
                            _mm256_madd_epi16(odd, _mm256_srai_epi16(signed_bytes, 8)));
}
QUIRE_INLINE __m512i _mm512_dpbusd_epi32(__m512i sums, __m512i a, __m512i b) {
    return _mm512_add_epi32(
        sums, join(four_products(half(a, 0), half(b, 0)), four_products(half(a, 1), half(b, 1))));
}

// Subnormal numbers count as zero, and become zero.
QUIRE_INLINE float flushed(float a) {
    return __builtin_fabsf(a) < 0x1p-126f ? 0.0f * a : a;
}
QUIRE_INLINE float widened(uint16_t a) {
    const uint32_t bits = uint32_t(a) << 16;
    return flushed(load_any<float>(&bits));
}
// To each sum, two products of bfloat16 numbers, the odd one first.
QUIRE_INLINE __m512 _mm512_dpbf16_ps(__m512 sums, __m512bh a, __m512bh b) {
    const __v32hi x = (__v32hi)a, y = (__v32hi)b;
    for (int i = 0; i < 16; i++) {
        for (int j = 2 * i + 1; j >= 2 * i; j--) {
            sums[i] = flushed(
                __builtin_fmaf(widened(uint16_t(x[j])), widened(uint16_t(y[j])), flushed(sums[i])));
        }
    }
    return sums;
}

}  // namespace
}  // namespace quire

#endif
