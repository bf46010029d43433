// How integer weights and activations stand in memory.
//
// Weights [N, K] are packed in panels of 16 rows; each panel walks along K in scale groups of
// `group_size` columns (a multiple of 32), and each group is
//   16 float16 scales, one per row
//   16 uint8 zero points, one per row, if the matrix has them (else they are 8 or 128)
//   its blocks of 32 columns:
//     4 bits: 4 x 64 bytes; byte 4 r + j of the i-th holds columns 4 i + j (low half) and
//             16 + 4 i + j (high half) of row r
//     8 bits: 8 x 64 bytes; byte 4 r + j of the i-th holds column 4 i + j of row r
// A weight is (code - zero point) * scale.  Rows and columns of padding weigh nothing; a last group
// that is short has fewer blocks.
//
// An activation row of K columns is quantized in blocks of 32; see QuantizedBlock.
#ifndef QUIRE_PACKED_H
#define QUIRE_PACKED_H

#include <stdint.h>

#include "compiler.h"
#include "integers.h"
#include "quire.h"

namespace quire {
namespace {

constexpr int kPanelRows = 16;
constexpr int kBlock = 32;  // columns that share an activation's scale

struct PackedLayout {
    int64_t blocks;            // along K
    int64_t blocks_per_group;  // that share a weight's scale
    int64_t header_bytes;      // of a group
    int64_t block_bytes;

    QUIRE_INLINE int64_t groups() const {
        return (blocks + blocks_per_group - 1) / blocks_per_group;
    }
    QUIRE_INLINE int64_t panel_bytes() const {
        return groups() * header_bytes + blocks * block_bytes;
    }
};

QUIRE_INLINE bool is_packed(const quire_matrix &matrix) {
    return matrix.dtype == QUIRE_INT4 || matrix.dtype == QUIRE_INT8;
}

QUIRE_INLINE PackedLayout packed_layout(const quire_matrix &matrix) {
    const int64_t bits = matrix.dtype == QUIRE_INT4 ? 4 : 8;
    return {(matrix.cols + kBlock - 1) / kBlock, matrix.group_size / kBlock,
            kPanelRows * (matrix.has_zero_points ? 3 : 2), kPanelRows * kBlock * bits / 8};
}

QUIRE_INLINE int64_t matrix_bytes(const quire_matrix &matrix) {
    if (!is_packed(matrix)) return matrix.rows * matrix.cols * (matrix.dtype == QUIRE_F32 ? 4 : 2);
    return (matrix.rows + kPanelRows - 1) / kPanelRows * packed_layout(matrix).panel_bytes();
}

// 32 numbers of an activation row: code * scale each.  The correction is minus 8 times the sum of
// the codes, in the form that the kernels of an instruction set want.
struct QuantizedBlock {
    float scale;
    int32_t correction;
    int8_t codes[kBlock];
};

}  // namespace
}  // namespace quire

#endif
