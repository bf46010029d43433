// Reads single rows of packed matrices back: what an embedding look-up needs.
namespace quire {
namespace {

// One weight row in float32.
QUIRE_INLINE void unpack_row(const quire_matrix &matrix, int64_t row, float *to) {
    const PackedLayout layout = packed_layout(matrix);
    const int64_t r = row % kPanelRows,
                  group_bytes = layout.header_bytes + layout.blocks_per_group * layout.block_bytes;
    const uint8_t *panel =
        static_cast<const uint8_t *>(matrix.data) + row / kPanelRows * layout.panel_bytes();
    for (int64_t k = 0; k < matrix.cols; k++) {
        const int64_t block = k / kBlock, i = k % kBlock;
        const uint8_t *group = panel + block / layout.blocks_per_group * group_bytes;
        const uint8_t *bytes = group + layout.header_bytes +
                               block % layout.blocks_per_group * layout.block_bytes + 4 * r + i % 4;
        Half scale;
        memcpy(&scale, group + 2 * r, sizeof scale);
        int code, zero;
        if (matrix.dtype == QUIRE_INT4) {
            code = bytes[i % 16 / 4 * 64] >> (i < 16 ? 0 : 4) & 15;
            zero = matrix.has_zero_points ? group[2 * kPanelRows + r] : 8;
        } else {
            code = bytes[i / 4 * 64];
            zero = matrix.has_zero_points ? group[2 * kPanelRows + r] : 128;
        }
        to[k] = float(code - zero) * to_float(scale);
    }
}

}  // namespace
}  // namespace quire
