// Where the numbers of one kv head stand in a block; quire/ops/kv_cache.py says the same.
//
//   float, Half, BFloat16   keys [K, D, B], values [K, B, D]
//   Code8                   keys [K, D / 2, B, 2] with D rounded up to even, values [K, B, D],
//                           then the float32 scales of keys [K, B] and of values [K, B]
#ifndef QUIRE_KV_BLOCK_H
#define QUIRE_KV_BLOCK_H

#include "formats.h"

namespace quire {
namespace {

// Numbers of a position that stand side by side in the keys, and how many a key has in all.
template <class Cache>
constexpr int64_t kKeyLanes = 1;
template <>
constexpr int64_t kKeyLanes<Code8> = 2;

template <class Cache>
QUIRE_INLINE int64_t key_numbers(int64_t head_dim) {
    return (head_dim + kKeyLanes<Cache> - 1) / kKeyLanes<Cache> * kKeyLanes<Cache>;
}

template <class Cache>
struct HeadOfBlock {
    Cache *keys, *values;
    float *key_scales, *value_scales;  // of Code8 only
};

template <class Cache>
QUIRE_INLINE HeadOfBlock<Cache> head_of_block(uint8_t *block, int64_t block_tokens,
                                              int64_t kv_heads, int64_t head_dim, int64_t head) {
    const int64_t key_size = key_numbers<Cache>(head_dim) * block_tokens;
    const int64_t value_size = head_dim * block_tokens;
    Cache *numbers = reinterpret_cast<Cache *>(block);
    float *scales = reinterpret_cast<float *>(numbers + kv_heads * (key_size + value_size));
    return {numbers + head * key_size, numbers + kv_heads * key_size + head * value_size,
            scales + head * block_tokens, scales + (kv_heads + head) * block_tokens};
}

}  // namespace
}  // namespace quire

#endif
