// The integer trait for 64-bit ARM with the matrix instructions of 8-bit integers.  See
// integer_portable.h for what each member means.
//
// smmla multiplies two rows of eight weights with two rows of eight activations and adds the four
// products to 32-bit sums: twice what sdot does.  Loaded bytes hold four columns of four rows, so
// the 32-bit words of two of them are zipped to eight columns of two rows, twice.  The same zip makes
// of the sums of two activation rows what smmla wants, and its inverse undoes that: the rest of the
// kernel sees the sums of NeonDotprodInteger, which also does single rows.
#ifndef QUIRE_INTEGER_NEON_I8MM_H
#define QUIRE_INTEGER_NEON_I8MM_H

#include "integer_neon_dotprod.h"

namespace quire {
namespace {

struct NeonI8mmInteger : NeonDotprodInteger {
    static constexpr int kMaxRows = 8, kJointRows = 2;
    static constexpr int kTogether = 2;

    // Rows go in pairs; a last one without a partner is its own.
    template <int kHalf, class Block>
    static QUIRE_INLINE void add_rows(Block &block, const uint8_t *w, const QuantizedBlock *x,
                                      int64_t stride, const Bytes &table) {
        constexpr int kPairs = (Block::kRows + 1) / 2, kStrips = Block::kStrips;
        Pair pairs[kPairs][kStrips];
        unroll<kPairs>([&](auto p) QUIRE_INLINE_LAMBDA {
            constexpr int kFirst = 2 * decltype(p)::value, kSecond = second<Block>(kFirst);
            unroll<kStrips>([&](auto s) QUIRE_INLINE_LAMBDA {
                pairs[p][s] = joined(block.of[kFirst][s], block.of[kSecond][s]);
            });
        });
        unroll<(kHalf < 0 ? kBlock : kHalfBlock) / 8>([&](auto i) QUIRE_INLINE_LAMBDA {
            constexpr int kColumn = column<Block, kHalf>(decltype(i)::value);
            const int8_t *codes = x->codes + kColumn;
            int8x16_t a[kPairs];
            unroll<kPairs>([&](auto p) QUIRE_INLINE_LAMBDA {
                constexpr int kFirst = 2 * decltype(p)::value, kSecond = second<Block>(kFirst);
                a[p] = vcombine_s8(vld1_s8(codes + kFirst * stride),
                                   vld1_s8(codes + kSecond * stride));
            });
            unroll<kStrips>([&](auto s) QUIRE_INLINE_LAMBDA {
                const uint8_t *from = w + 16 * s;
                const Pair weights = joined(words(Block::template load<kColumn>(from, table)),
                                            words(Block::template load<kColumn + 4>(from, table)));
                unroll<kPairs>([&](auto p)
                                   QUIRE_INLINE_LAMBDA { multiply(pairs[p][s], weights, a[p]); });
            });
        });
        unroll<kPairs>([&](auto p) QUIRE_INLINE_LAMBDA {
            constexpr int kFirst = 2 * decltype(p)::value, kSecond = second<Block>(kFirst);
            unroll<kStrips>([&](auto s) QUIRE_INLINE_LAMBDA {
                const Pair &pair = pairs[p][s];
                block.of[kSecond][s] = vuzp2q_s32(pair.low, pair.high);
                block.of[kFirst][s] = vuzp1q_s32(pair.low, pair.high);
            });
        });
    }

    static int64_t spin(int64_t iterations, float *sink) {
        constexpr int kChains = 16;
        int32x4_t sums[kChains];
        int8x16_t weights = vdupq_n_s8(3), a = vdupq_n_s8(int8_t(*sink));
        unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA { sums[c] = vdupq_n_s32(c); });
        for (int64_t i = 0; i < iterations; i++) {
            QUIRE_IN_REGISTER("+w", a);
            unroll<kChains>([&](auto c)
                                QUIRE_INLINE_LAMBDA { sums[c] = vmmlaq_s32(sums[c], weights, a); });
        }
        unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA {
            if (c > 0) sums[0] = vaddq_s32(sums[0], sums[c]);
        });
        *sink += float(vgetq_lane_s32(sums[0], 0));
        return iterations * kChains * 32 * 2;
    }

  private:
    // Of a strip: its first two weight rows, then its last two.  Sums hold two activation rows of
    // each, weights eight columns.
    struct Pair {
        int32x4_t low, high;
    };
    static QUIRE_INLINE Pair joined(int32x4_t first, int32x4_t second) {
        return {vzip1q_s32(first, second), vzip2q_s32(first, second)};
    }
    static QUIRE_INLINE int32x4_t words(int8x16_t bytes) { return vreinterpretq_s32_s8(bytes); }
    static QUIRE_INLINE void multiply(Pair &sums, const Pair &weights, int8x16_t a) {
        sums.low = vmmlaq_s32(sums.low, vreinterpretq_s8_s32(weights.low), a);
        sums.high = vmmlaq_s32(sums.high, vreinterpretq_s8_s32(weights.high), a);
    }
    template <class Block>
    static constexpr int second(int first) {
        return first + 1 < Block::kRows ? first + 1 : first;
    }
    // Where the i-th eight columns begin: such that two halves of bytes meet.
    template <class Block, int kHalf>
    static constexpr int column(int i) {
        if (kHalf >= 0) return kHalf * kHalfBlock + 8 * i;
        return Block::Format::kStoredBits == 8 ? 8 * i : i % 2 * kHalfBlock + i / 2 * 8;
    }
};

}  // namespace
}  // namespace quire

#endif
