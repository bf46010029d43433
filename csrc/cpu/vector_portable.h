// The vector trait in plain C++: eight floats in a struct, loops that every compiler vectorises.
//
// This is the contract of a trait; another instruction set is one more struct with these members.
//   Float                     kWidth floats
//   kTileRows                 activation rows that the matrix kernel takes at once
//   kRegisters                how many values of type Float the processor holds
//   load, store               unaligned, from and to float, Half and BFloat16; load from Code8, Code4
//                             (kWidth / 2 of them) and Float8
//   load_tiny                 from Float8 in the fewest steps; times kTinyUnit it is the number.  It
//                             may be subnormal: while a Subnormals lives these are numbers as others
//   load_once                 the same load, for weights that come from memory and meet few rows
//   load_partial              the first n < kWidth lanes from memory, zeros above; reads no further
//   store_partial             the first n lanes; writes no further
//   keep                      keeps a in a register: else it may be read again at each use
//   max(a, b)                 b where a or b is not a number
//   fma(a, b, c)              a * b + c, rounded once or twice, but always the same way
//   sum, sum4                 all lanes in one fixed tree; sum4 does four vectors at a time
//   round                     to the nearest integer, |a| < 2^22
//   power_of_two(n)           2^n for integral n in -127 (gives 0) .. 128 (gives infinity)
//   greater(a, b)             a bit mask of the lanes where a > b
//   Int                       kWidth int32, or as many pairs of int16
//   load_pairs                2 * kWidth codes as pairs, from Code8 or Code4
//   broadcast_pair            the pair in the two halves of an int32, the first in the low one
//   add_pair_products(a, b, sum)  sum + a.first * b.first + a.second * b.second, exact
//   kPairsOfValues            whether values of codes are multiplied as pairs of positions too; then
//     store_pairs             kWidth numbers, rounded to int16, two in an int32
//     widen_pairs             kWidth pairs of Code4 as pairs of Code8
//     pair_values             32 numbers of a position and of the next as pairs of Code8; all 32 are read
#ifndef QUIRE_VECTOR_PORTABLE_H
#define QUIRE_VECTOR_PORTABLE_H

#include <math.h>

#include "formats.h"

namespace quire {
namespace {

#define QUIRE_LANES \
    QUIRE_UNROLL    \
    for (int i = 0; i < kWidth; i++)

struct PortableVector {
    static constexpr int kWidth = 8;
    static constexpr int kTileRows = 2, kRegisters = 8;

    struct Float {
        float lane[8];
    };

    static QUIRE_INLINE Float broadcast(float value) {
        Float out;
        QUIRE_LANES out.lane[i] = value;
        return out;
    }
    static QUIRE_INLINE Float zero() { return broadcast(0.0f); }

    template <class T>
    static QUIRE_INLINE Float load(const T *from) {
        Float out;
        QUIRE_LANES out.lane[i] = to_float(from[i]);
        return out;
    }
    static QUIRE_INLINE Float load(const Code4 *from) {
        Float out;
        QUIRE_LANES out.lane[i] = float(from[i / 2].pair >> i % 2 * 4 & 15);
        return out;
    }
    struct Subnormals {};
    static constexpr float kTinyUnit = kFloat8Unit;
    static QUIRE_INLINE Float load_tiny(const Float8 *from) { return load(from); }

    template <class T>
    static QUIRE_INLINE Float load_once(const T *from) {
        return load(from);
    }
    template <class T>
    static QUIRE_INLINE Float load_partial(const T *from, int64_t n) {
        Float out;
        QUIRE_LANES out.lane[i] = i < n ? to_float(from[i]) : 0.0f;
        return out;
    }
    static QUIRE_INLINE Float load_partial(const Code4 *from, int64_t n) {
        Code4 codes[kWidth / 2] = {};
        for (int64_t i = 0; i < (n + 1) / 2; i++) codes[i] = from[i];
        return load(codes);
    }
    template <class T>
    static QUIRE_INLINE void store(T *to, const Float &a) {
        QUIRE_LANES from_float(a.lane[i], to + i);
    }
    template <class T>
    static QUIRE_INLINE void store_partial(T *to, const Float &a, int64_t n) {
        for (int64_t i = 0; i < n; i++) from_float(a.lane[i], to + i);
    }

    static QUIRE_INLINE void keep(Float &) {}

    static QUIRE_INLINE Float add(const Float &a, const Float &b) {
        Float out;
        QUIRE_LANES out.lane[i] = a.lane[i] + b.lane[i];
        return out;
    }
    static QUIRE_INLINE Float sub(const Float &a, const Float &b) {
        Float out;
        QUIRE_LANES out.lane[i] = a.lane[i] - b.lane[i];
        return out;
    }
    static QUIRE_INLINE Float mul(const Float &a, const Float &b) {
        Float out;
        QUIRE_LANES out.lane[i] = a.lane[i] * b.lane[i];
        return out;
    }
    static QUIRE_INLINE Float div(const Float &a, const Float &b) {
        Float out;
        QUIRE_LANES out.lane[i] = a.lane[i] / b.lane[i];
        return out;
    }
    static QUIRE_INLINE Float fma(const Float &a, const Float &b, const Float &c) {
        Float out;
        QUIRE_LANES out.lane[i] = a.lane[i] * b.lane[i] + c.lane[i];
        return out;
    }
    static QUIRE_INLINE Float max(const Float &a, const Float &b) {
        Float out;
        QUIRE_LANES out.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
        return out;
    }
    static QUIRE_INLINE Float min(const Float &a, const Float &b) {
        Float out;
        QUIRE_LANES out.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
        return out;
    }
    static QUIRE_INLINE Float round(const Float &a) {
        const float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for a fraction
        Float out;
        QUIRE_LANES out.lane[i] = (a.lane[i] + magic) - magic;
        return out;
    }
    static QUIRE_INLINE Float power_of_two(const Float &n) {
        const float magic = 12582912.0f;  // its last bits then hold the integer
        Float out;
        QUIRE_LANES out.lane[i] = float_from_bits((bits_of(n.lane[i] + magic) + 127u) << 23);
        return out;
    }
    static QUIRE_INLINE int greater(const Float &a, const Float &b) {
        int mask = 0;
        QUIRE_LANES mask |= int(a.lane[i] > b.lane[i]) << i;
        return mask;
    }

    struct Int {
        int32_t lane[8];
    };

    static QUIRE_INLINE int32_t pair(int32_t first, int32_t second) {
        return int32_t(uint32_t(uint16_t(first)) | uint32_t(second) << 16);
    }
    static QUIRE_INLINE Int broadcast_pair(int32_t value) {
        Int out;
        QUIRE_LANES out.lane[i] = value;
        return out;
    }
    static QUIRE_INLINE Int int_zero() { return broadcast_pair(0); }
    static QUIRE_INLINE Int load_pairs(const Code8 *from) {
        Int out;
        QUIRE_LANES out.lane[i] = pair(from[2 * i].code, from[2 * i + 1].code);
        return out;
    }
    static QUIRE_INLINE Int load_pairs(const Code4 *from) {
        Int out;
        QUIRE_LANES out.lane[i] = pair(from[i].pair & 15, from[i].pair >> 4);
        return out;
    }
    static QUIRE_INLINE Int add_pair_products(const Int &a, const Int &b, const Int &sum) {
        Int out;
        QUIRE_LANES out.lane[i] = sum.lane[i] + int16_t(a.lane[i]) * int16_t(b.lane[i]) +
                                  (a.lane[i] >> 16) * (b.lane[i] >> 16);
        return out;
    }
    static constexpr bool kPairsOfValues = false;
    static QUIRE_INLINE Float int_to_float(const Int &a) {
        Float out;
        QUIRE_LANES out.lane[i] = float(a.lane[i]);
        return out;
    }

    static QUIRE_INLINE float sum(const Float &a) {
        return ((a.lane[0] + a.lane[1]) + (a.lane[2] + a.lane[3])) +
               ((a.lane[4] + a.lane[5]) + (a.lane[6] + a.lane[7]));
    }
    static QUIRE_INLINE void sum4(const Float &a, const Float &b, const Float &c, const Float &d,
                                  float out[4]) {
        out[0] = sum(a), out[1] = sum(b), out[2] = sum(c), out[3] = sum(d);
    }
    static QUIRE_INLINE float max_lane(const Float &a) {
        float out = a.lane[0];
        QUIRE_LANES out = a.lane[i] > out ? a.lane[i] : out;
        return out;
    }
};

#undef QUIRE_LANES

}  // namespace
}  // namespace quire

#endif
