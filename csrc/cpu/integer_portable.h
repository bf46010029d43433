// The integer trait in plain C++: dot products of unsigned weight codes with signed activations.
//
// This is the contract of a trait; another instruction set is one more struct with these members.
//   kStrips            strips that make up the 16 rows of a panel; a strip is what one register sums
//   kMaxRows           activation rows of the largest tile
//   kAheadRows         tiles of so many rows ask for weights ahead, unless a tuning says otherwise
//   kAheadBytes        ... that stand so far ahead
//   kLeastRows         activation rows of the smallest tile
//   kJointRows         tiles of at least so many rows are summed by add_rows; 0: none
//   kTogether          strips whose sums are kept at once
//   kSmallTables       whether Sums4 have the room, and gain by it, for looked up codes up to 32
//   Sums4, Sums8       the running sums of one strip, of 4-bit codes and of what codes8 makes of 8-bit
//                      ones; start from a correction, add products
//   add_rows           only with kJointRows: adds all products of a block, or of half of it, to a
//                      BlockSums
//   start8_at_zero     the start of sums of 8-bit codes whose zero point is 0
//   start_small_table  only with kSmallTables: the start of Sums4 of codes whose zero point is 16
//   correction         of half a block, from the sum of its codes
//   Bytes              64 / kStrips loaded bytes; low and high give the 4-bit codes in them
//   load_table         16 bytes, so that look_up finds those that 4-bit codes mean
//   Float              one number per row of a strip
//   quantize           32 floats times `inverse` to codes, the sums of both halves' codes, and the
//                      correction of all
// The sums are exact, so every trait gives the same ones, whatever order it adds in.
#ifndef QUIRE_INTEGER_PORTABLE_H
#define QUIRE_INTEGER_PORTABLE_H

#include <string.h>

#include "formats.h"
#include "packed.h"
#include "unroll.h"

namespace quire {
namespace {

#define QUIRE_ROWS for (int r = 0; r < kPanelRows; r++)

struct PortableInteger {
    static constexpr int kStrips = 1, kMaxRows = 2;
    static constexpr int kAheadRows = 3, kAheadBytes = 4096;
    static constexpr int kLeastRows = 1, kJointRows = 0;
    static constexpr int kTogether = 1;
    static constexpr bool kSmallTables = false;

    struct Float {
        float row[kPanelRows];
    };
    struct Sums {
        int32_t row[kPanelRows];
    };
    using Sums4 = Sums;
    using Sums8 = Sums;
    struct Bytes {
        uint8_t byte[64];
    };
    struct Activation {
        int8_t codes[4];
    };

    static QUIRE_INLINE Activation broadcast(const int8_t *codes) {
        Activation out;
        memcpy(out.codes, codes, 4);
        return out;
    }
    static QUIRE_INLINE Bytes load(const uint8_t *from) {
        Bytes out;
        memcpy(out.byte, from, 64);
        return out;
    }
    static QUIRE_INLINE Bytes low(const Bytes &bytes) {
        Bytes out;
        for (int i = 0; i < 64; i++) out.byte[i] = bytes.byte[i] & 15;
        return out;
    }
    static QUIRE_INLINE Bytes high(const Bytes &bytes) {
        Bytes out;
        for (int i = 0; i < 64; i++) out.byte[i] = bytes.byte[i] >> 4;
        return out;
    }
    static QUIRE_INLINE Bytes codes8(const Bytes &bytes) { return bytes; }
    static QUIRE_INLINE Bytes load_table(const uint8_t *table) {
        Bytes out;
        for (int i = 0; i < 64; i++) out.byte[i] = table[i % 16];
        return out;
    }
    static QUIRE_INLINE Bytes look_up(const Bytes &table, const Bytes &codes) {
        Bytes out;
        for (int i = 0; i < 64; i++) out.byte[i] = table.byte[codes.byte[i]];
        return out;
    }

    static QUIRE_INLINE int32_t correction(int32_t sum) { return -8 * sum; }
    static QUIRE_INLINE Sums start4(int32_t correction) {
        Sums out;
        QUIRE_ROWS out.row[r] = correction;
        return out;
    }
    static QUIRE_INLINE Sums start8(int32_t correction) { return start4(correction * 16); }
    static QUIRE_INLINE Sums start8_at_zero(int32_t) { return start4(0); }
    static QUIRE_INLINE Sums start4(int32_t correction, const uint8_t *zeros) {
        Sums out;
        QUIRE_ROWS out.row[r] = correction / 8 * zeros[r];
        return out;
    }
    static QUIRE_INLINE Sums start8(int32_t correction, const uint8_t *zeros) {
        return start4(correction, zeros);
    }

    static QUIRE_NOINLINE void add(Sums &sums, const Bytes &weights, const Activation &a) {
        QUIRE_ROWS {
            for (int j = 0; j < 4; j++) {
                sums.row[r] += int32_t(weights.byte[4 * r + j]) * a.codes[j];
            }
        }
    }
    static QUIRE_INLINE Float zero() { return Float{}; }
    static QUIRE_INLINE Float scales(const uint8_t *from) {
        Float out;
        QUIRE_ROWS {
            Half half;
            memcpy(&half, from + 2 * r, sizeof half);
            out.row[r] = to_float(half);
        }
        return out;
    }
    // total + (sums * weight_scales) * scale
    static QUIRE_INLINE Float accumulate(const Float &total, const Sums &sums, const Float &weights,
                                         float scale) {
        Float out;
        QUIRE_ROWS {
            const float product = float(sums.row[r]) * weights.row[r];
            out.row[r] = total.row[r] + product * scale;
        }
        return out;
    }
    static QUIRE_INLINE Float subtract(const Float &total, const Float &minimums, float sum) {
        Float out;
        QUIRE_ROWS out.row[r] = total.row[r] - minimums.row[r] * sum;
        return out;
    }
    static QUIRE_INLINE Float times(const Float &a, float factor) {
        Float out;
        QUIRE_ROWS out.row[r] = a.row[r] * factor;
        return out;
    }
    static QUIRE_INLINE Float plus(const Float &a, const float *from) {
        Float out;
        QUIRE_ROWS out.row[r] = a.row[r] + from[r];
        return out;
    }
    static QUIRE_INLINE void store(float *to, const Float &a) { memcpy(to, a.row, sizeof a.row); }

    static QUIRE_INLINE void quantize(const float *x, float inverse, int8_t *codes, int16_t *sums,
                                      int32_t *all) {
        sums[0] = sums[1] = 0;
        for (int i = 0; i < kBlock; i++) {
            const float scaled = x[i] * inverse;
            const float rounded = scaled + 12582912.0f - 12582912.0f;  // 1.5 * 2^23
            codes[i] = scaled > -127.5f && scaled < 127.5f ? int8_t(rounded) : 0;
            sums[i / kHalfBlock] = int16_t(sums[i / kHalfBlock] + codes[i]);
        }
        *all = correction(sums[0] + sums[1]);
    }

    // Multiply-adds on registers only; returns the number of operations.
    static int64_t spin(int64_t iterations, float *sink) {
        uint8_t weights[64] = {1, 2, 3};
        Activation a = {{1, -2, 3, int8_t(*sink)}};
        Sums sums = start4(0);
        for (int64_t i = 0; i < iterations; i++) add(sums, load(weights), a);
        *sink += float(sums.row[0]);
        return iterations * 64 * 2;
    }
};

#undef QUIRE_ROWS

}  // namespace
}  // namespace quire

#endif
