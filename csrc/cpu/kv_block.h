// Where the numbers of one kv head stand in a block; quire/ops/kv_cache.py says the same.
// Position p of a request is at offset p % B of block table[p / B].
//
//   float, Half, BFloat16   keys [K, D, B], values [K, B, D]
//   Float8                  the same, then the float32 scales of keys [K, B] and of values [K, B]
//   Code8                   keys [K, D / 2, B, 2] with D rounded up to even, values [K, B, D], scales
//   Code4                   keys [K, D / 2, B] pairs, values [K, B, D / 2] pairs, D rounded up to
//                           even; scales, then minimums in the same order
#ifndef QUIRE_KV_BLOCK_H
#define QUIRE_KV_BLOCK_H

#include "formats.h"

namespace quire {
namespace {

// How a format of the cache stands in memory; an element is one value of its type.
template <class Cache>
struct KvFormat {
    static constexpr bool kScales = false, kMinimums = false;
    static constexpr bool kPairs = false;           // queries meet two dimensions at each step
    static constexpr int64_t kKeyElements = 1;      // of a key at a step
    static constexpr int64_t kNumbersPerValue = 1;  // numbers in an element of a value
    static constexpr float kUnit = 1.0f;            // what a loaded number is to be times
};
template <>
struct KvFormat<Float8> : KvFormat<float> {
    static constexpr bool kScales = true;
    static constexpr float kUnit = kFloat8Unit;
};
template <>
struct KvFormat<Code8> : KvFormat<float> {
    static constexpr bool kScales = true, kPairs = true;
    static constexpr int64_t kKeyElements = 2;
};
template <>
struct KvFormat<Code4> : KvFormat<float> {
    static constexpr bool kScales = true, kMinimums = true, kPairs = true;
    static constexpr int64_t kNumbersPerValue = 2;
};

// Steps over the dimensions of a key.
template <class Cache>
QUIRE_INLINE int64_t key_steps(int64_t head_dim) {
    return KvFormat<Cache>::kPairs ? (head_dim + 1) / 2 : head_dim;
}
// Elements of a value of so many numbers.
template <class Cache>
QUIRE_INLINE int64_t value_elements(int64_t numbers) {
    constexpr int64_t kPer = KvFormat<Cache>::kNumbersPerValue;
    return (numbers + kPer - 1) / kPer;
}

template <class Cache>
struct HeadOfBlock {
    Cache *keys, *values;
    float *key_scales, *value_scales;  // where the format has scales
    int64_t minimums;                  // floats from a scale to its minimum, where there are any
};

template <class Cache>
QUIRE_INLINE HeadOfBlock<Cache> head_of_block(uint8_t *block, int64_t block_tokens,
                                              int64_t kv_heads, int64_t head_dim, int64_t head) {
    const int64_t key_size =
        key_steps<Cache>(head_dim) * KvFormat<Cache>::kKeyElements * block_tokens;
    const int64_t value_size = value_elements<Cache>(head_dim) * block_tokens;
    Cache *numbers = reinterpret_cast<Cache *>(block);
    float *scales = reinterpret_cast<float *>(numbers + kv_heads * (key_size + value_size));
    return {numbers + head * key_size, numbers + kv_heads * key_size + head * value_size,
            scales + head * block_tokens, scales + (kv_heads + head) * block_tokens,
            2 * kv_heads * block_tokens};
}

}  // namespace
}  // namespace quire

#endif
