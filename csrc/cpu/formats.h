// The narrow number formats of weights and caches, converted one number at a time.
//
// Conversions to float32 are exact; conversions from it round to nearest, ties to even.
// Everything here is static: units built for different instruction sets each get their own copy.
#ifndef QUIRE_FORMATS_H
#define QUIRE_FORMATS_H

#include <stdint.h>
#include <string.h>

#include "compiler.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Quire reads checkpoints in place: it needs a little-endian machine"
#endif

namespace quire {
namespace {

struct Half {
    uint16_t bits;
};

struct BFloat16 {
    uint16_t bits;
};

// A code of the int8 cache; what it stands for is code * the scale of its vector.
struct Code8 {
    int8_t code;
};

// A float of 8 bits, e4m3.  It is read as 2^-8 of what it stands for: then it is a Half with some bits
// less.
struct Float8 {
    uint8_t bits;
};
constexpr float kFloat8Unit = 256.0f;

QUIRE_INLINE float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

QUIRE_INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

QUIRE_INLINE float to_float(float value) {
    return value;
}

QUIRE_INLINE float to_float(Code8 value) {
    return float(value.code);
}

QUIRE_INLINE float to_float(BFloat16 value) {
    return float_from_bits(uint32_t(value.bits) << 16);
}

QUIRE_INLINE float to_float(Half value) {
    const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
    const uint32_t rest = value.bits & 0x7fffu;
    if (rest >= 0x7c00u) {  // infinity, or NaN: made quiet as the hardware does
        return float_from_bits(sign | 0x7f800000u | ((rest & 0x3ffu) << 13) |
                               (rest > 0x7c00u ? 0x400000u : 0u));
    }
    if (rest < 0x400u) {  // zero or subnormal: rest * 2^-24
        return float_from_bits(sign | bits_of(float(rest) * 5.9604644775390625e-8f));
    }
    return float_from_bits(sign | ((rest << 13) + 0x38000000u));
}

QUIRE_INLINE float to_float(Float8 value) {
    return to_float(Half{uint16_t((value.bits & 0x80) << 8 | (value.bits & 0x7f) << 7)});
}

QUIRE_INLINE void from_float(float value, float *out) {
    *out = value;
}

QUIRE_INLINE void from_float(float value, BFloat16 *out) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        out->bits = uint16_t((bits >> 16) | 0x40u);
    } else {
        out->bits = uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
}

QUIRE_INLINE void from_float(float value, Half *out) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t rest = bits & 0x7fffffffu;
    uint32_t half;
    if (rest > 0x7f800000u) {
        half = 0x7e00u | ((rest >> 13) & 0x3ffu);
    } else if (rest >= 0x477ff000u) {  // rounds to 65536 or more
        half = 0x7c00u;
    } else if (rest < 0x38800000u) {  // below 2^-14: let the adder round to a multiple of 2^-24
        half = bits_of(float_from_bits(rest) + 0.5f) - 0x3f000000u;
    } else {
        half = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
    }
    out->bits = uint16_t(sign | half);
}

}  // namespace
}  // namespace quire

#endif
