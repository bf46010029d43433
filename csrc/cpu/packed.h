// How integer weights and activations stand in memory.
//
// Weights [N, K] are packed in panels of 16 rows; each panel walks along K in scale groups of
// `group_size` columns, and each group is
//   16 float16 scales, one per row
//   16 uint8 zero points or 16 float16 minimums, one per row, if the matrix has either
//   its blocks of 32 columns:
//     4 bits: 4 x 64 bytes; byte 4 r + j of the i-th holds columns 4 i + j (low half) and
//             16 + 4 i + j (high half) of row r
//     8 bits: 8 x 64 bytes; byte 4 r + j of the i-th holds column 4 i + j of row r
// group_size is a multiple of 32, or 16: then a block has two headers, of its first and its last 16
// columns.  A weight is, times 2^exponent of the matrix,
//   (code - zero point) * scale      zero points are 8 or 128 where the matrix has none
//   code * scale - minimum
//   table[code] * scale              of QUIRE_TABLE4
// Rows and columns of padding weigh nothing; a last group that is short has fewer blocks.
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
constexpr int kHalfBlock = kBlock / 2;

QUIRE_INLINE bool is_packed(int32_t dtype) {
    return dtype >= QUIRE_INT4 && dtype <= QUIRE_TABLE4;
}
QUIRE_INLINE bool is_packed(const quire_matrix &matrix) {
    return is_packed(matrix.dtype);
}

struct PackedLayout {
    int64_t blocks;            // along K
    int64_t blocks_per_group;  // that share headers
    int64_t headers;           // of these blocks: 1, or 2 where half a block has its own
    int64_t header_bytes;      // of one
    int64_t block_bytes;

    QUIRE_INLINE int64_t groups() const {
        return (blocks + blocks_per_group - 1) / blocks_per_group;
    }
    QUIRE_INLINE int64_t panel_bytes() const {
        return groups() * headers * header_bytes + blocks * block_bytes;
    }
};

QUIRE_INLINE PackedLayout packed_layout(const quire_matrix &matrix) {
    const bool halves = matrix.group_size < kBlock;
    const int64_t per_row = matrix.has_minimums ? 4 : matrix.has_zero_points ? 3 : 2;
    return {(matrix.cols + kBlock - 1) / kBlock, halves ? 1 : matrix.group_size / kBlock,
            halves ? 2 : 1, kPanelRows * per_row,
            kPanelRows * kBlock / (matrix.dtype == QUIRE_INT8 ? 1 : 2)};
}

// Where the scales of a QUIRE_FLOAT8 begin.
QUIRE_INLINE int64_t float8_bytes(const quire_matrix &matrix) {
    return round_up(matrix.rows * matrix.cols, 4);
}

QUIRE_INLINE int64_t matrix_bytes(const quire_matrix &matrix) {
    if (matrix.dtype == QUIRE_FLOAT8) {
        return float8_bytes(matrix) + 4 * matrix.rows * ceil_div(matrix.cols, matrix.group_size);
    }
    if (!is_packed(matrix)) return matrix.rows * matrix.cols * (matrix.dtype == QUIRE_F32 ? 4 : 2);
    return (matrix.rows + kPanelRows - 1) / kPanelRows * packed_layout(matrix).panel_bytes();
}

// 32 numbers of an activation row: code * scale each.  The correction is minus 8 times the sum of
// the codes, in the form that the kernels of an instruction set want.
struct QuantizedBlock {
    float scale;
    float sum;  // of the numbers
    int32_t correction;
    int16_t code_sums[2];  // of the first and of the last 16 codes
    int8_t codes[kBlock];
};

}  // namespace
}  // namespace quire

#endif
