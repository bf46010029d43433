// Rounds float matrices to packed integers; csrc/cpu/packed.h has the layout.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "formats.h"
#include "packed.h"
#include "thread_pool.h"

namespace quire {
namespace {

void read_row(const quire_matrix &from, int64_t row, float *to) {
    const int64_t start = row * from.cols;
    for (int64_t i = 0; i < from.cols; i++) {
        switch (from.dtype) {
            case QUIRE_F32:
                to[i] = static_cast<const float *>(from.data)[start + i];
                break;
            case QUIRE_F16:
                to[i] = to_float(static_cast<const Half *>(from.data)[start + i]);
                break;
            default:
                to[i] = to_float(static_cast<const BFloat16 *>(from.data)[start + i]);
        }
    }
}

// The scale of a group as float16, and its inverse.
struct Scale {
    Half stored;
    float inverse;
};

Scale find_scale(const float *x, int64_t n, bool four_bits) {
    float extreme = 0.0f, wrong = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
        wrong += x[i] * 0.0f;
    }
    Scale scale;
    from_float((four_bits ? extreme / -8.0f : fabsf(extreme) / 127.0f) + wrong, &scale.stored);
    const float rounded = to_float(scale.stored);
    scale.inverse = rounded != 0.0f && fabsf(rounded) < INFINITY ? 1.0f / rounded : 0.0f;
    return scale;
}

uint8_t find_code(float x, float inverse, int zero, int largest) {
    const float code = nearbyintf(x * inverse) + float(zero);
    return uint8_t(code >= 0.0f ? std::min(code, float(largest)) : 0.0f);
}

// Packs one row; `x` is padded with zeros to whole blocks.
void pack_row(const quire_matrix &to, int64_t row, const float *x) {
    const PackedLayout layout = packed_layout(to);
    const bool four_bits = to.dtype == QUIRE_INT4;
    const int zero = four_bits ? 8 : 128, largest = four_bits ? 15 : 255;
    const int64_t r = row % kPanelRows;
    uint8_t *at = static_cast<uint8_t *>(const_cast<void *>(to.data)) +
                  row / kPanelRows * layout.panel_bytes();
    for (int64_t block = 0; block < layout.blocks;) {
        const int64_t end = std::min(block + layout.blocks_per_group, layout.blocks);
        const Scale scale = find_scale(x + block * kBlock, (end - block) * kBlock, four_bits);
        memcpy(at + 2 * r, &scale.stored, sizeof scale.stored);
        at += layout.header_bytes;
        for (; block < end; block++, at += layout.block_bytes) {
            for (int i = 0; i < kBlock; i++) {
                const uint8_t code = find_code(x[block * kBlock + i], scale.inverse, zero, largest);
                if (four_bits) {
                    uint8_t *byte = at + i % 16 / 4 * 64 + 4 * r + i % 4;
                    *byte = i < 16 ? code : uint8_t(*byte | code << 4);
                } else {
                    at[i / 4 * 64 + 4 * r + i % 4] = code;
                }
            }
        }
    }
}

bool fits(const quire_matrix &from, const quire_matrix &to) {
    return from.dtype <= QUIRE_BF16 && (to.dtype == QUIRE_INT4 || to.dtype == QUIRE_INT8) &&
           !to.has_zero_points && !to.has_minimums && to.exponent == 0 && to.group_size >= kBlock &&
           to.group_size % kBlock == 0 && from.rows == to.rows && from.cols == to.cols;
}

}  // namespace
}  // namespace quire

int32_t quire_pack(quire_pool *pool, const quire_matrix *from, const quire_matrix *to) {
    using namespace quire;
    if (!fits(*from, *to)) return QUIRE_BAD_OP;
    const int64_t width = packed_layout(*to).blocks * kBlock;
    const int64_t panels = (to->rows + kPanelRows - 1) / kPanelRows;
    std::lock_guard<std::mutex> turn(pool->threads.lock());
    if (!pool->threads.reserve_scratch(size_t(width) * sizeof(float))) return QUIRE_NO_MEMORY;
    pool->threads.parallel_for(panels, 4, [&](int thread, int64_t first, int64_t last) {
        float *x = reinterpret_cast<float *>(pool->threads.scratch(thread));
        for (int64_t row = first * kPanelRows; row < last * kPanelRows; row++) {
            std::fill(x, x + width, 0.0f);
            if (row < from->rows) read_row(*from, row, x);
            pack_row(*to, row, x);
        }
    });
    return QUIRE_OK;
}

int64_t quire_matrix_bytes(const quire_matrix *matrix) {
    if (matrix->dtype < QUIRE_F32 || matrix->dtype > QUIRE_FLOAT8) return 0;
    return quire::matrix_bytes(*matrix);
}
