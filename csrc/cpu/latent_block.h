// Where the rows of latent attention stand in a block; quire/ops/latent_cache.py says the same.
//
//   rows [B, C + P]: the latent and the rotated part of the key; with Code8 then the float32 scales
//   of the latents [B] and of the rotated parts [B]
#ifndef QUIRE_LATENT_BLOCK_H
#define QUIRE_LATENT_BLOCK_H

#include "formats.h"

namespace quire {
namespace {

template <class Cache>
struct LatentBlock {
    Cache *rows;
    float *latent_scales, *rope_scales;  // of Code8 only
};

template <class Cache>
QUIRE_INLINE LatentBlock<Cache> latent_block(uint8_t *block, int64_t block_tokens, int64_t width) {
    Cache *rows = reinterpret_cast<Cache *>(block);
    float *scales = reinterpret_cast<float *>(rows + block_tokens * width);
    return {rows, scales, scales + block_tokens};
}

}  // namespace
}  // namespace quire

#endif
