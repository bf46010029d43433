// What amx_tiles.h says of the tile unit, in plain C++: a build with -DQUIRE_MODEL_AVX512=ON runs the
// kernels that use it on machines without.  Shapes that the instructions refuse end the process.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, LDTILECFG, TDPBSUD,
// TILELOADD, TILESTORED.
#ifndef QUIRE_AMX_TILES_MODEL_H
#define QUIRE_AMX_TILES_MODEL_H

#include <string.h>

#include "amx_tiles.h"

namespace quire {
namespace {

struct AmxTiles {
    static void begin(const TileShapes &given) {
        require(given.palette == 1 && given.first_row == 0);
        for (int t = 0; t < 16; t++) {
            require(t < 8 ? given.rows[t] <= 16 && given.row_bytes[t] <= 64
                          : given.rows[t] == 0 && given.row_bytes[t] == 0);
        }
        shapes = given;
        memset(bytes, 0, sizeof bytes);
    }
    static void end() { shapes = TileShapes(); }

    template <int kTile>
    static void clear() {
        memset(tile<kTile>(), 0, sizeof bytes[kTile]);
    }
    template <int kTile>
    static void load(const void *from, int64_t stride) {
        clear<kTile>();
        for (int64_t r = 0; r < shapes.rows[kTile]; r++) {
            const char *row = static_cast<const char *>(from) + r * stride;
            memcpy(tile<kTile>() + 64 * r, row, shapes.row_bytes[kTile]);
        }
    }
    template <int kTile>
    static void store(void *to, int64_t stride) {
        for (int64_t r = 0; r < shapes.rows[kTile]; r++) {
            char *row = static_cast<char *>(to) + r * stride;
            memcpy(row, tile<kTile>() + 64 * r, shapes.row_bytes[kTile]);
        }
    }
    template <int kSums, int kSigned, int kUnsigned>
    static void multiply() {
        require(kSums != kSigned && kSigned != kUnsigned && kSums != kUnsigned);
        require(shapes.rows[kSums] == shapes.rows[kSigned]);
        require(shapes.row_bytes[kSums] == shapes.row_bytes[kUnsigned]);
        require(shapes.row_bytes[kSigned] == 4 * shapes.rows[kUnsigned]);
        const uint8_t *sums = tile<kSums>(), *a = tile<kSigned>(), *b = tile<kUnsigned>();
        for (int m = 0; m < shapes.rows[kSums]; m++) {
            for (int n = 0; n < shapes.row_bytes[kSums] / 4; n++) {
                int32_t sum;
                memcpy(&sum, sums + 64 * m + 4 * n, sizeof sum);
                for (int k = 0; k < shapes.row_bytes[kSigned]; k++) {
                    sum += int8_t(a[64 * m + k]) * b[64 * (k / 4) + 4 * n + k % 4];
                }
                memcpy(bytes[kSums][m] + 4 * n, &sum, sizeof sum);
            }
        }
    }

  private:
    static void require(bool allowed) {
        if (!allowed) __builtin_trap();
    }
    template <int kTile>
    static uint8_t *tile() {
        require(shapes.rows[kTile] > 0 && shapes.row_bytes[kTile] > 0);
        return bytes[kTile][0];
    }

    static inline thread_local TileShapes shapes;
    static inline thread_local uint8_t bytes[8][16][64];
};

}  // namespace
}  // namespace quire

#endif
