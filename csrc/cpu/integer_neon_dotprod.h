// The integer trait for 64-bit ARM with the dot product instructions.  See integer_portable.h for
// what each member means.
//
// sdot adds four products of signed bytes to 32-bit sums.  4-bit codes are signed bytes already; an
// 8-bit code c is taken as c - 128, so its zero point 128 becomes 0.
#ifndef QUIRE_INTEGER_NEON_DOTPROD_H
#define QUIRE_INTEGER_NEON_DOTPROD_H

#include <arm_neon.h>
#include <string.h>

#include "packed.h"
#include "unroll.h"

namespace quire {
namespace {

struct NeonDotprodInteger {
    static constexpr int kStrips = 4, kMaxRows = 4;
    static constexpr int kAheadRows = 3, kAheadBytes = 4096;
    static constexpr int kLeastRows = 1, kJointRows = 0;
    static constexpr int kTogether = 4;
    static constexpr bool kSmallTables = false;

    using Float = float32x4_t;
    using Activation = int8x16_t;
    using Sums4 = int32x4_t;
    using Sums8 = Sums4;
    using Bytes = int8x16_t;

    static QUIRE_INLINE Activation broadcast(const int8_t *codes) {
        int32_t four;
        memcpy(&four, codes, 4);
        return vreinterpretq_s8_s32(vdupq_n_s32(four));
    }
    static QUIRE_INLINE Bytes load(const uint8_t *from) {
        return vreinterpretq_s8_u8(vld1q_u8(from));
    }
    static QUIRE_INLINE Bytes low(Bytes bytes) { return vandq_s8(bytes, vdupq_n_s8(15)); }
    static QUIRE_INLINE Bytes high(Bytes bytes) {
        return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(bytes), 4));
    }
    static QUIRE_INLINE Bytes codes8(Bytes bytes) { return veorq_s8(bytes, vdupq_n_s8(-128)); }

    static QUIRE_INLINE Bytes load_table(const uint8_t *table) { return load(table); }
    static QUIRE_INLINE Bytes look_up(Bytes table, Bytes codes) {
        return vqtbl1q_s8(table, vreinterpretq_u8_s8(codes));
    }

    static QUIRE_INLINE int32_t correction(int32_t sum) { return -8 * sum; }
    static QUIRE_INLINE Sums4 start4(int32_t correction) { return vdupq_n_s32(correction); }
    static QUIRE_INLINE Sums8 start8(int32_t) { return vdupq_n_s32(0); }
    static QUIRE_INLINE Sums8 start8_at_zero(int32_t correction) {
        return start4(-16 * correction);
    }
    static QUIRE_INLINE Sums4 start4(int32_t correction, const uint8_t *zeros) {
        return vmulq_n_s32(wide(zeros), correction / 8);
    }
    static QUIRE_INLINE Sums8 start8(int32_t correction, const uint8_t *zeros) {
        return vmulq_n_s32(vsubq_s32(wide(zeros), vdupq_n_s32(128)), correction / 8);
    }

    static QUIRE_INLINE void add(Sums4 &sums, Bytes weights, Activation a) {
        sums = vdotq_s32(sums, weights, a);
    }

    static QUIRE_INLINE Float zero() { return vdupq_n_f32(0.0f); }
    static QUIRE_INLINE Float scales(const uint8_t *from) {
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
    }
    static QUIRE_INLINE Float accumulate(Float total, Sums4 sums, Float weights, float scale) {
        return vfmaq_n_f32(total, vmulq_f32(vcvtq_f32_s32(sums), weights), scale);
    }
    static QUIRE_INLINE Float subtract(Float total, Float minimums, float sum) {
        return vfmsq_n_f32(total, minimums, sum);
    }
    static QUIRE_INLINE Float times(Float a, float factor) { return vmulq_n_f32(a, factor); }
    static QUIRE_INLINE Float plus(Float a, const float *from) {
        return vaddq_f32(a, vld1q_f32(from));
    }
    static QUIRE_INLINE void store(float *to, Float a) { vst1q_f32(to, a); }

    static QUIRE_INLINE void quantize(const float *x, float inverse, int8_t *codes, int16_t *sums,
                                      int32_t *all) {
        unroll<kBlock / 16>([&](auto i) QUIRE_INLINE_LAMBDA {
            int16x8_t halves[2];
            unroll<2>([&](auto h) QUIRE_INLINE_LAMBDA {
                const float *from = x + 16 * i + 8 * h;
                halves[h] = vcombine_s16(rounded(from, inverse), rounded(from + 4, inverse));
            });
            const int8x16_t bytes = vcombine_s8(vqmovn_s16(halves[0]), vqmovn_s16(halves[1]));
            vst1q_s8(codes + 16 * i, bytes);
            sums[i] = vaddlvq_s8(bytes);
        });
        *all = correction(sums[0] + sums[1]);
    }

    static int64_t spin(int64_t iterations, float *sink) {
        constexpr int kChains = 16;
        int32x4_t sums[kChains];
        int8x16_t weights = vdupq_n_s8(3), a = vdupq_n_s8(int8_t(*sink));
        unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA { sums[c] = vdupq_n_s32(c); });
        for (int64_t i = 0; i < iterations; i++) {
            QUIRE_IN_REGISTER("+w", a);
            unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA { add(sums[c], weights, a); });
        }
        unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA {
            if (c > 0) sums[0] = vaddq_s32(sums[0], sums[c]);
        });
        *sink += float(vgetq_lane_s32(sums[0], 0));
        return iterations * kChains * 16 * 2;
    }

  private:
    static QUIRE_INLINE int16x4_t rounded(const float *x, float inverse) {
        return vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), inverse)));
    }
    static QUIRE_INLINE int32x4_t wide(const uint8_t *zeros) {
        uint32_t four;
        memcpy(&four, zeros, 4);
        const uint16x8_t words = vmovl_u8(vcreate_u8(four));
        return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words)));
    }
};

}  // namespace
}  // namespace quire

#endif
