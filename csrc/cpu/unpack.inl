// Reads single rows of packed matrices back: what an embedding look-up needs.
namespace quire {
namespace {

QUIRE_INLINE float read_half(const uint8_t *from) {
    Half half;
    memcpy(&half, from, sizeof half);
    return to_float(half);
}

QUIRE_INLINE void unpack_float8_row(const quire_matrix &matrix, int64_t row, float *to) {
    const char *data = static_cast<const char *>(matrix.data);
    const Float8 *from = reinterpret_cast<const Float8 *>(data) + row * matrix.cols;
    const float *scales = reinterpret_cast<const float *>(data + float8_bytes(matrix)) +
                          row * ceil_div(matrix.cols, matrix.group_size);
    for (int64_t k = 0; k < matrix.cols; k++) {
        to[k] = to_float(from[k]) * kFloat8Unit * scales[k / matrix.group_size];
    }
}

// One weight row in float32.  order: which column of `to` is the matrix's k-th; null: the k-th.
QUIRE_INLINE void unpack_row(const quire_matrix &matrix, int64_t row, const int32_t *order,
                             float *to) {
    if (matrix.dtype == QUIRE_FLOAT8) return unpack_float8_row(matrix, row, to);
    const PackedLayout layout = packed_layout(matrix);
    const int64_t r = row % kPanelRows, headers = layout.headers * layout.header_bytes,
                  group_bytes = headers + layout.blocks_per_group * layout.block_bytes;
    const float factor = float_from_bits(uint32_t(matrix.exponent + 127) << 23);
    const uint8_t *panel =
        static_cast<const uint8_t *>(matrix.data) + row / kPanelRows * layout.panel_bytes();
    for (int64_t k = 0; k < matrix.cols; k++) {
        const int64_t block = k / kBlock, i = k % kBlock;
        const uint8_t *group = panel + block / layout.blocks_per_group * group_bytes;
        const uint8_t *bytes =
            group + headers + block % layout.blocks_per_group * layout.block_bytes + 4 * r + i % 4;
        const bool bytes_each = matrix.dtype == QUIRE_INT8;
        const int code =
            bytes_each ? bytes[i / 4 * 64] : bytes[i % 16 / 4 * 64] >> (i < 16 ? 0 : 4) & 15;
        const uint8_t *header =
            group + (layout.headers == 2 ? i / kHalfBlock : 0) * layout.header_bytes;
        const uint8_t *offsets = header + 2 * kPanelRows;
        const float scale = read_half(header + 2 * r);
        float weight;
        if (matrix.dtype == QUIRE_TABLE4) {
            weight = float(matrix.table[code]) * scale;
        } else if (matrix.has_minimums) {
            weight = float(code) * scale - read_half(offsets + 2 * r);
        } else {
            const int zero = matrix.has_zero_points ? offsets[r] : bytes_each ? 128 : 8;
            weight = float(code - zero) * scale;
        }
        to[order ? order[k] : k] = weight * factor;
    }
}

}  // namespace
}  // namespace quire
