// The vector trait for NEON on 64-bit ARM.  See vector_portable.h for what each member means.
#ifndef QUIRE_VECTOR_NEON_H
#define QUIRE_VECTOR_NEON_H

#include <arm_neon.h>

#include "formats.h"

namespace quire {
namespace {

struct NeonVector {
    static constexpr int kWidth = 4;
    static constexpr int kTileRows = 6, kRegisters = 32;

    using Float = float32x4_t;

    static QUIRE_INLINE Float broadcast(float value) { return vdupq_n_f32(value); }
    static QUIRE_INLINE Float zero() { return vdupq_n_f32(0.0f); }

    static QUIRE_INLINE uint16x4_t load_bits(const void *from) {
        uint16_t lanes[4];
        memcpy(lanes, from, sizeof lanes);  // weights need not be aligned to their size
        return vld1_u16(lanes);
    }
    static QUIRE_INLINE Float load(const float *from) { return vld1q_f32(from); }
    static QUIRE_INLINE Float load(const Half *from) {
        return vcvt_f32_f16(vreinterpret_f16_u16(load_bits(from)));
    }
    static QUIRE_INLINE Float load(const BFloat16 *from) {
        return vreinterpretq_f32_u32(vshll_n_u16(load_bits(from), 16));
    }
    static QUIRE_INLINE Float load(const Code8 *from) {
        int32_t four;
        memcpy(&four, from, sizeof four);
        const int16x8_t codes = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(codes)));
    }
    static QUIRE_INLINE Float load(const Float8 *from) {
        int32_t four;
        memcpy(&four, from, sizeof four);
        const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
        const int16x4_t bits =
            vand_s16(vshl_n_s16(vget_low_s16(wide), 7), vdup_n_s16(int16_t(0xbfff)));
        return vcvt_f32_f16(vreinterpret_f16_s16(bits));
    }
    static QUIRE_INLINE Float load(const Code4 *from) { return load_partial(from, 4); }
    static QUIRE_INLINE Float load_partial(const Code4 *from, int64_t n) {
        uint16_t four = 0;
        memcpy(&four, from, (n + 1) / 2);
        const int32_t shifts[4] = {0, -4, -8, -12};
        const uint32x4_t codes = vshlq_u32(vdupq_n_u32(four), vld1q_s32(shifts));
        return vcvtq_f32_u32(vandq_u32(codes, vdupq_n_u32(15)));
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
        T lanes[4] = {};
        for (int64_t i = 0; i < n; i++) lanes[i] = from[i];
        return load(lanes);
    }

    static QUIRE_INLINE void store(float *to, Float a) { vst1q_f32(to, a); }
    static QUIRE_INLINE void store(Half *to, Float a) {
        const uint16x4_t bits = vreinterpret_u16_f16(vcvt_f16_f32(a));
        memcpy(to, &bits, sizeof bits);
    }
    static QUIRE_INLINE void store(BFloat16 *to, Float a) {
        const uint32x4_t bits = vreinterpretq_u32_f32(a);
        const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
        const uint16x4_t high = vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, quiet), 16);
        memcpy(to, &high, sizeof high);
    }
    template <class T>
    static QUIRE_INLINE void store_partial(T *to, Float a, int64_t n) {
        T lanes[4];
        store(lanes, a);
        for (int64_t i = 0; i < n; i++) to[i] = lanes[i];
    }

    static QUIRE_INLINE void keep(Float &a) { QUIRE_IN_REGISTER("+w", a); }

    static QUIRE_INLINE Float add(Float a, Float b) { return vaddq_f32(a, b); }
    static QUIRE_INLINE Float sub(Float a, Float b) { return vsubq_f32(a, b); }
    static QUIRE_INLINE Float mul(Float a, Float b) { return vmulq_f32(a, b); }
    static QUIRE_INLINE Float div(Float a, Float b) { return vdivq_f32(a, b); }
    static QUIRE_INLINE Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
    static QUIRE_INLINE Float max(Float a, Float b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
    static QUIRE_INLINE Float min(Float a, Float b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
    static QUIRE_INLINE Float round(Float a) { return vrndnq_f32(a); }
    static QUIRE_INLINE Float power_of_two(Float n) {
        const int32x4_t biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
        return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
    }
    static QUIRE_INLINE int greater(Float a, Float b) {
        const uint32x4_t bits = {1, 2, 4, 8};
        return int(vaddvq_u32(vandq_u32(vcgtq_f32(a, b), bits)));
    }

    using Int = int32x4_t;

    static QUIRE_INLINE Int int_zero() { return vdupq_n_s32(0); }
    static QUIRE_INLINE Int load_pairs(const Code8 *from) {
        int8_t codes[8];
        memcpy(codes, from, sizeof codes);
        return vreinterpretq_s32_s16(vmovl_s8(vld1_s8(codes)));
    }
    static QUIRE_INLINE Int load_pairs(const Code4 *from) {
        uint32_t four;
        memcpy(&four, from, sizeof four);
        const uint16x8_t bytes = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
        const uint32x4_t wide = vmovl_u16(vget_low_u16(bytes));
        const uint32x4_t both = vorrq_u32(wide, vshlq_n_u32(wide, 12));
        return vreinterpretq_s32_u32(vandq_u32(both, vdupq_n_u32(0x000f000f)));
    }
    static QUIRE_INLINE Int broadcast_pair(int32_t pair) { return vdupq_n_s32(pair); }
    static QUIRE_INLINE Int add_pair_products(Int a, Int b, Int sum) {
        const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
        const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
        return vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(x, y)));
    }
    static constexpr bool kPairsOfValues = false;
    static QUIRE_INLINE Float int_to_float(Int a) { return vcvtq_f32_s32(a); }

    static QUIRE_INLINE float sum(Float a) { return vaddvq_f32(a); }
    static QUIRE_INLINE void sum4(Float a, Float b, Float c, Float d, float out[4]) {
        vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
    }
    static QUIRE_INLINE float max_lane(Float a) {
        const Float pairs = max(a, vextq_f32(a, a, 2));
        return vgetq_lane_f32(max(pairs, vextq_f32(pairs, pairs, 1)), 0);
    }
};

}  // namespace
}  // namespace quire

#endif
