// Matrix products of quantized activations [M, K] with packed integer weights [N, K].
//
// Per block of 32 columns an exact integer sum, then out += (sum * weight scale) * activation
// scale, block after block: one order for every M, so a row gives the same bits in any batch.
namespace quire {
namespace {

struct IntegerProduct {
    const QuantizedBlock *x;
    int64_t x_stride;  // bytes from row to row
    const uint8_t *w;
    PackedLayout layout;
    const float *bias;
    float *out;
    int64_t out_stride, columns;  // of the panel
    const quire_tuning *tuning;
};

QUIRE_INLINE const QuantizedBlock *row(const QuantizedBlock *x, int64_t m, int64_t stride) {
    return reinterpret_cast<const QuantizedBlock *>(reinterpret_cast<const char *>(x) + m * stride);
}

// The sums of one block for M rows and S strips from `strip` on.
template <class Q, int kBits, int M, int S>
struct BlockSums;

template <class Q, int M, int S>
struct BlockSums<Q, 4, M, S> {
    typename Q::Sums4 sums[M][S];

    template <class... Zeros>
    QUIRE_INLINE void start(int m, int s, int32_t correction, Zeros... zeros) {
        sums[m][s] = Q::start4(correction, zeros...);
    }

    QUIRE_INLINE void add(const uint8_t *w, const QuantizedBlock *x, int64_t stride) {
        unroll<kBlock / 8>([&](auto i) QUIRE_INLINE_LAMBDA {
            typename Q::Bytes bytes[S];
            unroll<S>([&](auto s) QUIRE_INLINE_LAMBDA {
                bytes[s] = Q::load(w + i * 64 + s * (64 / Q::kStrips));
            });
            add_half(bytes, x, stride, 4 * i, [](auto b) { return Q::low(b); });
            add_half(bytes, x, stride, 4 * i + 16, [](auto b) { return Q::high(b); });
        });
    }

    template <class Half>
    QUIRE_INLINE void add_half(const typename Q::Bytes *bytes, const QuantizedBlock *x,
                               int64_t stride, int column, Half half) {
        typename Q::Bytes weights[S];
        unroll<S>([&](auto s) QUIRE_INLINE_LAMBDA { weights[s] = half(bytes[s]); });
        unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
            const auto a = Q::broadcast(row(x, m, stride)->codes + column);
            unroll<S>([&](auto s) QUIRE_INLINE_LAMBDA { Q::add(sums[m][s], weights[s], a); });
        });
    }
};

// Eight bits are summed in one plane, or as two planes of four bits, one after the other.
template <class Q, int M, int S>
struct BlockSums<Q, 8, M, S> {
    typename Q::Sums8 sums[M][S];

    template <class... Zeros>
    QUIRE_INLINE void start(int m, int s, int32_t correction, Zeros... zeros) {
        unroll<Q::kPlanes>([&](auto plane) QUIRE_INLINE_LAMBDA {
            sums[m][s].plane[plane] = Q::start8(plane, correction, zeros...);
        });
    }

    QUIRE_INLINE void add(const uint8_t *w, const QuantizedBlock *x, int64_t stride) {
        unroll<Q::kPlanes>([&](auto plane) QUIRE_INLINE_LAMBDA {
            unroll<kBlock / 4>([&](auto i) QUIRE_INLINE_LAMBDA {
                typename Q::Bytes weights[S];
                unroll<S>([&](auto s) QUIRE_INLINE_LAMBDA {
                    weights[s] = Q::codes8(plane, Q::load(w + i * 64 + s * (64 / Q::kStrips)));
                });
                unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
                    const auto a = Q::broadcast(row(x, m, stride)->codes + 4 * i);
                    unroll<S>([&](auto s) QUIRE_INLINE_LAMBDA {
                        Q::add(sums[m][s].plane[plane], weights[s], a);
                    });
                });
            });
        });
    }
};

// M rows times one panel.
template <class Q, int kBits, bool kZeros, int M>
struct IntegerTile {
    static constexpr int kTogether = Q::kTogether;
    static constexpr int kStripRows = kPanelRows / Q::kStrips;

    typename Q::Float totals[M][Q::kStrips];

    QUIRE_INLINE void clear() {
        unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
            unroll<Q::kStrips>([&](auto s) QUIRE_INLINE_LAMBDA { totals[m][s] = Q::zero(); });
        });
    }

    // Adds the products of one block.  header: of the weights' group.
    QUIRE_INLINE void add_block(const QuantizedBlock *x, int64_t stride, const uint8_t *header,
                                const uint8_t *w) {
        unroll<Q::kStrips / kTogether>([&](auto i) QUIRE_INLINE_LAMBDA {
            constexpr int strip = decltype(i)::value * kTogether;
            BlockSums<Q, kBits, M, kTogether> block;
            unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
                const int32_t correction = row(x, m, stride)->correction;
                unroll<kTogether>([&](auto s) QUIRE_INLINE_LAMBDA {
                    if constexpr (kZeros) {
                        block.start(m, s, correction,
                                    header + 2 * kPanelRows + (strip + s) * kStripRows);
                    } else {
                        block.start(m, s, correction);
                    }
                });
            });
            block.add(w + strip * (64 / Q::kStrips), x, stride);
            unroll<kTogether>([&](auto s) QUIRE_INLINE_LAMBDA {
                const auto weights = Q::scales(header + 2 * (strip + s) * kStripRows);
                unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
                    totals[m][strip + s] = Q::accumulate(totals[m][strip + s], block.sums[m][s],
                                                         weights, row(x, m, stride)->scale);
                });
            });
        });
    }

    QUIRE_INLINE void store(const IntegerProduct &p, int64_t first_row) const {
        unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
            float sums[kPanelRows];
            unroll<Q::kStrips>(
                [&](auto s) QUIRE_INLINE_LAMBDA { Q::store(sums + s * kStripRows, totals[m][s]); });
            store_row(p, first_row + m, sums);
        });
    }

    static QUIRE_NOINLINE void store_row(const IntegerProduct &p, int64_t row, const float *sums) {
        float *out = p.out + row * p.out_stride;
        for (int64_t i = 0; i < p.columns; i++) out[i] = p.bias ? sums[i] + p.bias[i] : sums[i];
    }
};

// Asks for the weights some kilobytes on.  The hardware does so by itself while the rows are few;
// with more of them it is late, because more work stands between one line of weights and the next.
template <int kBits>
QUIRE_INLINE void ask_ahead(const uint8_t *w) {
    QUIRE_UNROLL
    for (int line = 0; line <= kBits; line++) QUIRE_PREFETCH_L2(w + 64 * line);
}

template <class Q, int kBits, bool kZeros, int M>
QUIRE_NOINLINE void integer_tile(const IntegerProduct &p, int64_t first_row) {
    IntegerTile<Q, kBits, kZeros, M> tile;
    tile.clear();
    const int64_t stride = p.x_stride, block_bytes = p.layout.block_bytes;
    const QuantizedBlock *x = row(p.x, first_row, stride);
    const uint8_t *w = p.w;
    const bool asks = first_row == 0 && M >= p.tuning->ahead_rows;
    for (int64_t left = p.layout.blocks; left > 0;) {
        const uint8_t *header = w;
        w += p.layout.header_bytes;
        for (int64_t i = smaller(p.layout.blocks_per_group, left); i > 0; i--, left--) {
            if (asks) ask_ahead<kBits>(w + p.tuning->ahead_bytes);
            tile.add_block(x++, stride, header, w);
            w += block_bytes;
        }
    }
    tile.store(p, first_row);
}

template <class Q, int kBits, bool kZeros, int M>
QUIRE_INLINE void integer_tile_of(const IntegerProduct &p, int64_t first_row, int64_t rows) {
    if constexpr (M > 1) {
        if (rows < M) return integer_tile_of<Q, kBits, kZeros, M - 1>(p, first_row, rows);
    }
    integer_tile<Q, kBits, kZeros, M>(p, first_row);
}

// All rows times one panel, in the fewest tiles, which are then as even as can be.
template <class Q, int kBits, bool kZeros>
void integer_panel(const IntegerProduct &p, int64_t num_rows) {
    const int64_t most = tile_rows(*p.tuning, Q::kMaxRows);
    for (int64_t tiles = ceil_div(num_rows, most), row = 0; tiles > 0; tiles--) {
        const int64_t rows = ceil_div(num_rows - row, tiles);
        integer_tile_of<Q, kBits, kZeros, Q::kMaxRows>(p, row, rows);
        row += rows;
    }
}

// Units run over blocks of rows, then panels: the codes of a block of rows stay near.
template <class Q>
void integer_part(const quire_op &op, const Run &run, int part, int64_t column, int64_t first_unit,
                  int64_t last_unit) {
    const quire_matrix &matrix = op.parts[part];
    const PackedLayout layout = packed_layout(matrix);
    const int64_t panels = ceil_div(matrix.rows, kPanelRows);
    const quire_tuning &tuning = tuning_of(run, matrix);
    const int64_t most_rows = block_rows(tuning, matrix);
    for (int64_t unit = first_unit; unit < last_unit; unit++) {
        const int64_t m = unit / panels * most_rows, panel = unit % panels;
        const int64_t n = panel * kPanelRows, rows = smaller(run.num_rows - m, most_rows);
        const IntegerProduct product = {
            reinterpret_cast<const QuantizedBlock *>(run.row(op.in[0], m)),
            op.in[0].stride * int64_t(sizeof(float)),
            static_cast<const uint8_t *>(matrix.data) + panel * layout.panel_bytes(),
            layout,
            op.vectors[part] ? op.vectors[part] + n : nullptr,
            run.row(op.out[0], m) + column + n,
            op.out[0].stride,
            smaller(matrix.rows - n, kPanelRows),
            &tuning};
        if (matrix.dtype == QUIRE_INT4) {
            matrix.has_zero_points ? integer_panel<Q, 4, true>(product, rows)
                                   : integer_panel<Q, 4, false>(product, rows);
        } else {
            matrix.has_zero_points ? integer_panel<Q, 8, true>(product, rows)
                                   : integer_panel<Q, 8, false>(product, rows);
        }
    }
}

}  // namespace
}  // namespace quire
