// What a kernel knows of a packed matrix's format when it is compiled.
#ifndef QUIRE_PACKED_FORMAT_H
#define QUIRE_PACKED_FORMAT_H

#include "packed.h"

namespace quire {
namespace {

enum class Codes {
    kInt4,
    kInt8,
    kTable,       // looked up numbers of 8 bits
    kSmallTable,  // the same from -16 to 16: the sums of 16 products fit 16 bits
};
enum class Offset { kNone, kZeroPoints, kMinimums };

template <Codes kCodesOf, Offset kOffsetOf = Offset::kNone, int kHeadersOf = 1>
struct PackedFormat {
    static constexpr Codes kCodes = kCodesOf;
    static constexpr Offset kOffset = kOffsetOf;
    static constexpr int kHeaders = kHeadersOf;  // of a block
    static constexpr int kHeaderBytes = kPanelRows * (kOffset == Offset::kNone         ? 2
                                                      : kOffset == Offset::kZeroPoints ? 3
                                                                                       : 4);

    static constexpr bool kLooksUp = kCodes == Codes::kTable || kCodes == Codes::kSmallTable;
    static constexpr int kStoredBits = kCodes == Codes::kInt8 ? 8 : 4;
    // Of memory, that a block takes with headers.
    static constexpr int kLines =
        (kStoredBits * kPanelRows * kBlock / 8 + kHeaders * kHeaderBytes + 63) / 64;
    static constexpr bool kSums8 = kCodes == Codes::kInt8 || kCodes == Codes::kTable;

    static constexpr int kTableOffset =
        kCodes == Codes::kSmallTable ? 16 : 128;  // makes codes of it

    // Columns whose sums are added i-th, four at once: such that two halves of bytes meet.
    template <int kHalf>
    static constexpr int column(int i) {
        if (kHalf >= 0) return kHalf * kHalfBlock + 4 * i;
        return kStoredBits == 8 ? 4 * i : i % 2 * kHalfBlock + i / 2 * 4;
    }

    // The others get tiles of 1, 2, 4, … rows only, to keep the library small.
    static constexpr bool kHasEveryTile =
        kHeaders == 1 && (kCodes == Codes::kInt4 || kOffset == Offset::kNone);
};

QUIRE_INLINE bool is_small(const int8_t *table) {
    bool small = true;
    for (int i = 0; i < 16; i++) small = small && table[i] >= -16 && table[i] <= 16;
    return small;
}

template <Codes kCodes, class Body>
QUIRE_INLINE void with_offset(const quire_matrix &matrix, const Body &body) {
    const bool halves = matrix.group_size < kBlock;
    if (matrix.has_minimums) {
        halves ? body(PackedFormat<kCodes, Offset::kMinimums, 2>())
               : body(PackedFormat<kCodes, Offset::kMinimums>());
    } else if (matrix.has_zero_points) {
        body(PackedFormat<kCodes, Offset::kZeroPoints>());
    } else {
        halves ? body(PackedFormat<kCodes, Offset::kNone, 2>())
               : body(PackedFormat<kCodes, Offset::kNone>());
    }
}

template <Codes kCodes, class Body>
QUIRE_INLINE void with_headers(const quire_matrix &matrix, const Body &body) {
    matrix.group_size < kBlock ? body(PackedFormat<kCodes, Offset::kNone, 2>())
                               : body(PackedFormat<kCodes, Offset::kNone>());
}

// Calls body(PackedFormat<…>()) with the format of a matrix.  kSmallTables: whether the instruction
// set gains by them.
template <bool kSmallTables, class Body>
QUIRE_INLINE void with_format(const quire_matrix &matrix, const Body &body) {
    switch (matrix.dtype) {
        case QUIRE_INT4:
            return with_offset<Codes::kInt4>(matrix, body);
        case QUIRE_INT8:
            return with_offset<Codes::kInt8>(matrix, body);
        default:
            if constexpr (kSmallTables) {
                if (is_small(matrix.table)) return with_headers<Codes::kSmallTable>(matrix, body);
            }
            return with_headers<Codes::kTable>(matrix, body);
    }
}

}  // namespace
}  // namespace quire

#endif
