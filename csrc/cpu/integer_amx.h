// The integer trait for x86-64 with AMX-INT8, for tiles of 16 rows only.  See integer_portable.h for
// what each member means.
//
// The codes of 16 activation rows are one operand of tdpbsud as they stand, a block of a panel the
// other: as it stands in 8 bits, widened where it has 4.  Every block has scales of its own, so its
// sums leave the unit at once, and the rest of the kernel sees those of VNNI.
#ifndef QUIRE_INTEGER_AMX_H
#define QUIRE_INTEGER_AMX_H

#include "amx_tiles.h"
#include "integer_avx512vnni.h"

namespace quire {
namespace {

struct AmxInteger : Avx512VnniInteger {
    static constexpr int kMaxRows = 16, kLeastRows = 16, kJointRows = 16;

    // Between them a thread has these tiles.
    static QUIRE_INLINE void begin() {
        TileShapes shapes;
        const auto shape = [&](int tile, int rows, int row_bytes) {
            shapes.rows[tile] = uint8_t(rows), shapes.row_bytes[tile] = uint16_t(row_bytes);
        };
        for (int i = 0; i < kChains; i++) shape(kSums + i, kMaxRows, 4 * kPanelRows);
        shape(kCodes, kMaxRows, kBlock);
        shape(kWeights, kBlock / 4, 4 * kPanelRows);
        shape(kHalfCodes, kMaxRows, kHalfBlock);
        shape(kHalfWeights, kHalfBlock / 4, 4 * kPanelRows);
        AmxTiles::begin(shapes);
    }
    static QUIRE_INLINE void end() { AmxTiles::end(); }

    template <int kHalf, class Block>
    static QUIRE_INLINE void add_rows(Block &block, const uint8_t *w, const QuantizedBlock *x,
                                      int64_t stride, const Bytes &table) {
        constexpr int kFirst = kHalf > 0 ? kHalfBlock : 0;  // column
        constexpr int kA = kHalf < 0 ? kCodes : kHalfCodes;
        constexpr int kB = kHalf < 0 ? kWeights : kHalfWeights;
        alignas(64) uint8_t codes[kBlock / 4][64];
        if constexpr (Block::Format::kStoredBits == 8) {
            AmxTiles::load<kB>(w + kFirst / 4 * 64, 64);
        } else {
            unroll<(kHalf < 0 ? kBlock : kHalfBlock) / 4>([&](auto i) QUIRE_INLINE_LAMBDA {
                constexpr int kColumn = kFirst + 4 * decltype(i)::value;
                _mm512_store_si512(codes[i], Block::template load<kColumn>(w, table));
            });
            AmxTiles::load<kB>(codes, 64);
        }
        AmxTiles::load<kA>(x->codes + kFirst, stride);
        AmxTiles::clear<kSums>();
        AmxTiles::multiply<kSums, kA, kB>();
        alignas(64) int32_t sums[kMaxRows][kPanelRows];
        AmxTiles::store<kSums>(sums, 64);
        unroll<kMaxRows>([&](auto m) QUIRE_INLINE_LAMBDA {
            auto &of_row = block.of[m][0];
            of_row = _mm512_add_epi32(of_row, _mm512_load_si512(sums[m]));
        });
    }

    static int64_t spin(int64_t iterations, float *) {
        begin();
        for (int64_t i = 0; i < iterations; i++) {
            unroll<kChains>([&](auto c) QUIRE_INLINE_LAMBDA {
                AmxTiles::multiply<kSums + decltype(c)::value, kCodes, kWeights>();
            });
        }
        end();
        return iterations * kChains * kMaxRows * kPanelRows * kBlock * 2;
    }

  private:
    // Numbers of tiles; of the sums only the first, but for measurements.
    static constexpr int kSums = 0, kChains = 4;
    static constexpr int kCodes = 4, kWeights = 5, kHalfCodes = 6, kHalfWeights = 7;
};

}  // namespace
}  // namespace quire

#endif
