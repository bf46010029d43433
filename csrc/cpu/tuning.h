// What the kernels take from a tuning.  Static: see formats.h.
#ifndef QUIRE_TUNING_H
#define QUIRE_TUNING_H

#include <stdint.h>

#include "compiler.h"
#include "integers.h"
#include "kernels.h"
#include "packed.h"
#include "quire.h"

namespace quire {
namespace {

constexpr int64_t kLeastBlockRows = 16, kMostBlockRows = 64;

QUIRE_INLINE const quire_tuning &tuning_of(const Run &run, const quire_matrix &part) {
    return run.tunings[part.dtype];
}

// Most rows of a tile, of which a kernel has `most` at most.
QUIRE_INLINE int64_t tile_rows(const quire_tuning &tuning, int64_t most) {
    return larger(1, smaller(tuning.tile_rows, most));
}

// Activation rows that meet a block of weights before the next block does.
QUIRE_INLINE int64_t block_rows(const quire_tuning &tuning, const quire_matrix &part) {
    const int64_t row_bytes = is_packed(part)
                                  ? ceil_div(part.cols, kBlock) * int64_t(sizeof(QuantizedBlock))
                                  : part.cols * int64_t(sizeof(float));
    const int64_t fit = tuning.block_bytes / larger(row_bytes, 1) / 8 * 8;
    return larger(kLeastBlockRows, smaller(fit, kMostBlockRows));
}

}  // namespace
}  // namespace quire

#endif
