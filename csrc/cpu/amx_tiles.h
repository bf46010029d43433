// The tile unit of x86-64 with AMX: eight registers of up to 16 rows of 64 bytes, which belong to the
// thread and have the shapes that it was given.  One struct of a few instructions, so that another can
// take their place: see amx_tiles_model.h.
#ifndef QUIRE_AMX_TILES_H
#define QUIRE_AMX_TILES_H

#include <stdint.h>

#include "compiler.h"

namespace quire {
namespace {

// As ldtilecfg reads it; all tiles are zero afterwards.
struct alignas(64) TileShapes {
    uint8_t palette = 1, first_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64, "as the instruction reads it");

#if !defined(QUIRE_MODEL_AVX512)
// Written out, because GCC's intrinsics do not say that they read and write memory.
struct AmxTiles {
    static QUIRE_INLINE void begin(const TileShapes &shapes) {
        __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
    }
    static QUIRE_INLINE void end() { __asm__ volatile("tilerelease"); }

    template <int kTile>
    static QUIRE_INLINE void clear() {
        __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
    }
    // Rows that stand `stride` bytes apart.
    template <int kTile>
    static QUIRE_INLINE void load(const void *from, int64_t stride) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile)
                         : "memory");
    }
    template <int kTile>
    static QUIRE_INLINE void store(void *to, int64_t stride) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile)
                         : "memory");
    }
    // sums [M, N] of 32 bits += signed bytes [M, K] times unsigned ones [K / 4, N, 4].
    template <int kSums, int kSigned, int kUnsigned>
    static QUIRE_INLINE void multiply() {
        __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kSigned),
                         "i"(kUnsigned));
    }
};
#endif

}  // namespace
}  // namespace quire

#if defined(QUIRE_MODEL_AVX512)
#include "amx_tiles_model.h"
#endif

#endif
