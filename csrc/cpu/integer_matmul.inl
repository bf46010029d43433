// Matrix products of quantized activations [M, K] with packed integer weights [N, K].
//
// Per block of 32 columns an exact integer sum, then out += (sum * weight scale) * activation
// scale, block after block: one order for every M, so a row gives the same bits in any batch.
// Where half a block has a scale of its own, its sum is made by itself, one half after the other.
namespace quire {
namespace {

struct IntegerProduct {
    const QuantizedBlock *x;
    int64_t x_stride;  // bytes from row to row
    const uint8_t *w;
    PackedLayout layout;
    const uint8_t *table;  // of codes that are looked up
    float factor;
    const float *bias;
    float *out;
    int64_t out_stride, columns;  // of the panel
    const quire_tuning *tuning;
};

QUIRE_INLINE const QuantizedBlock *row(const QuantizedBlock *x, int64_t m, int64_t stride) {
    return reinterpret_cast<const QuantizedBlock *>(reinterpret_cast<const char *>(x) + m * stride);
}

template <class Q, bool kEight>
struct SumsOf {
    using Type = typename Q::Sums4;
};
template <class Q>
struct SumsOf<Q, true> {
    using Type = typename Q::Sums8;
};

// What 4-bit codes mean, where weights are looked up.
template <class Q, class F>
QUIRE_INLINE typename Q::Bytes load_table(const uint8_t *table) {
    const auto bytes = Q::load_table(table);
    return F::kSums8 ? Q::codes8(bytes) : bytes;
}

// The sums of one block, or of one half of it, for M rows and S strips.
template <class Q, class F, int M, int S>
struct BlockSums {
    using Bytes = typename Q::Bytes;
    static constexpr int kRows = M, kStrips = S;
    using Format = F;

    typename SumsOf<Q, F::kSums8>::Type of[M][S];

    template <class... Zeros>
    QUIRE_INLINE void start(int m, int s, int32_t correction, Zeros... zeros) {
        if constexpr (F::kCodes == Codes::kSmallTable) {
            of[m][s] = Q::start_small_table(correction);
        } else if constexpr (F::kSums8 && F::kOffset == Offset::kMinimums) {
            of[m][s] = Q::start8_at_zero(correction);
        } else if constexpr (F::kOffset == Offset::kMinimums) {
            of[m][s] = Q::start4(0);
        } else if constexpr (F::kSums8) {
            of[m][s] = Q::start8(correction, zeros...);
        } else {
            of[m][s] = Q::start4(correction, zeros...);
        }
    }

    // kHalf: 0 or 1; -1 for the whole block.
    template <int kHalf>
    QUIRE_INLINE void add(const uint8_t *w, const QuantizedBlock *x, int64_t stride,
                          const Bytes &table) {
        if constexpr (Q::kJointRows > 0 && M >= Q::kJointRows) {
            Q::template add_rows<kHalf>(*this, w, x, stride, table);
        } else {
            unroll<(kHalf < 0 ? kBlock : kHalfBlock) / 4>([&](auto i) QUIRE_INLINE_LAMBDA {
                add_columns<F::template column<kHalf>(decltype(i)::value)>(w, x, stride, table);
            });
        }
    }

    template <int kColumn>
    QUIRE_INLINE void add_columns(const uint8_t *w, const QuantizedBlock *x, int64_t stride,
                                  const Bytes &table) {
        Bytes weights[S];
        unroll<S>([&](auto s) QUIRE_INLINE_LAMBDA {
            weights[s] = load<kColumn>(w + s * (64 / Q::kStrips), table);
        });
        unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
            const auto a = Q::broadcast(row(x, m, stride)->codes + kColumn);
            unroll<S>([&](auto s) QUIRE_INLINE_LAMBDA { Q::add(of[m][s], weights[s], a); });
        });
    }

    // Four columns from kColumn on of a strip's rows.
    template <int kColumn>
    static QUIRE_INLINE Bytes load(const uint8_t *w, const Bytes &table) {
        if constexpr (F::kStoredBits == 8) {
            return Q::codes8(Q::load(w + kColumn / 4 * 64));
        } else {
            const Bytes both = Q::load(w + kColumn % kHalfBlock / 4 * 64);
            const Bytes codes = kColumn < kHalfBlock ? Q::low(both) : Q::high(both);
            return F::kLooksUp ? Q::look_up(table, codes) : codes;
        }
    }
};

// M rows times one panel.
template <class Q, class F, int M>
struct IntegerTile {
    static constexpr int kTogether = Q::kTogether;
    static constexpr int kStripRows = kPanelRows / Q::kStrips;

    typename Q::Float totals[M][Q::kStrips];

    QUIRE_INLINE void clear() {
        unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
            unroll<Q::kStrips>([&](auto s) QUIRE_INLINE_LAMBDA { totals[m][s] = Q::zero(); });
        });
    }

    // Adds the products of one block.  header: of the weights' group, or of the block's halves.
    QUIRE_INLINE void add_block(const QuantizedBlock *x, int64_t stride, const uint8_t *header,
                                const uint8_t *w, const typename Q::Bytes &table) {
        unroll<Q::kStrips / kTogether>([&](auto i) QUIRE_INLINE_LAMBDA {
            constexpr int kStrip = decltype(i)::value * kTogether;
            const uint8_t *from = w + kStrip * (64 / Q::kStrips);
            if constexpr (F::kHeaders == 1) {
                add_columns<kStrip, -1>(x, stride, header, from, table);
            } else {
                add_columns<kStrip, 0>(x, stride, header, from, table);
                add_columns<kStrip, 1>(x, stride, header + F::kHeaderBytes, from, table);
            }
        });
    }

    template <int kStrip, int kHalf>
    QUIRE_INLINE void add_columns(const QuantizedBlock *x, int64_t stride, const uint8_t *header,
                                  const uint8_t *w, const typename Q::Bytes &table) {
        BlockSums<Q, F, M, kTogether> block;
        unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
            const int32_t correction = correction_of<kHalf>(*row(x, m, stride));
            unroll<kTogether>([&](auto s) QUIRE_INLINE_LAMBDA {
                if constexpr (F::kOffset == Offset::kZeroPoints) {
                    block.start(m, s, correction, offsets<1>(header, kStrip + s));
                } else {
                    block.start(m, s, correction);
                }
            });
        });
        block.template add<kHalf>(w, x, stride, table);
        float sums[M];
        if constexpr (F::kOffset == Offset::kMinimums) {
            unroll<M>([&](auto m)
                          QUIRE_INLINE_LAMBDA { sums[m] = sum_of<kHalf>(*row(x, m, stride)); });
        }
        unroll<kTogether>([&](auto s) QUIRE_INLINE_LAMBDA {
            constexpr int strip = kStrip + decltype(s)::value;
            const auto weights = Q::scales(header + 2 * strip * kStripRows);
            unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
                totals[m][strip] = Q::accumulate(totals[m][strip], block.of[m][s], weights,
                                                 row(x, m, stride)->scale);
            });
            if constexpr (F::kOffset == Offset::kMinimums) {
                const auto minimums = Q::scales(offsets<2>(header, strip));
                unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
                    totals[m][strip] = Q::subtract(totals[m][strip], minimums, sums[m]);
                });
            }
        });
    }

    // What stands behind the scales, kSize bytes a row.
    template <int kSize>
    static QUIRE_INLINE const uint8_t *offsets(const uint8_t *header, int strip) {
        return header + 2 * kPanelRows + strip * kStripRows * kSize;
    }
    template <int kHalf>
    static QUIRE_INLINE int32_t correction_of(const QuantizedBlock &x) {
        return kHalf < 0 ? x.correction : Q::correction(x.code_sums[kHalf < 0 ? 0 : kHalf]);
    }
    template <int kHalf>
    static QUIRE_INLINE float sum_of(const QuantizedBlock &x) {
        return kHalf < 0 ? x.sum : float(x.code_sums[kHalf < 0 ? 0 : kHalf]) * x.scale;
    }

    QUIRE_INLINE void store(const IntegerProduct &p, int64_t first_row) const {
        unroll<M>([&](auto m) QUIRE_INLINE_LAMBDA {
            float *out = p.out + (first_row + m) * p.out_stride, last[kPanelRows];
            const bool whole = p.columns == kPanelRows;
            unroll<Q::kStrips>([&](auto s) QUIRE_INLINE_LAMBDA {
                auto total = Q::times(totals[m][s], p.factor);
                if (whole && p.bias) total = Q::plus(total, p.bias + s * kStripRows);
                Q::store((whole ? out : last) + s * kStripRows, total);
            });
            if (!whole) store_last(p, last, out);
        });
    }

    // The columns of a panel that is not full.
    static QUIRE_NOINLINE void store_last(const IntegerProduct &p, const float *sums, float *out) {
        for (int64_t i = 0; i < p.columns; i++) out[i] = p.bias ? sums[i] + p.bias[i] : sums[i];
    }
};

// Asks for the weights some kilobytes on.  The hardware does so by itself while the rows are few;
// with more of them it is late, because more work stands between one line of weights and the next.
template <int kLines>
QUIRE_INLINE void ask_ahead(const uint8_t *w) {
    QUIRE_UNROLL
    for (int line = 0; line < kLines; line++) QUIRE_PREFETCH_L2(w + 64 * line);
}

template <class Q, class F, int M>
QUIRE_NOINLINE void integer_tile(const IntegerProduct &p, int64_t first_row) {
    IntegerTile<Q, F, M> tile;
    tile.clear();
    const auto table = load_table<Q, F>(p.table);
    const int64_t stride = p.x_stride, block_bytes = p.layout.block_bytes;
    const QuantizedBlock *x = row(p.x, first_row, stride);
    const uint8_t *w = p.w;
    const bool asks = first_row == 0 && M >= p.tuning->ahead_rows;
    for (int64_t left = p.layout.blocks; left > 0;) {
        const uint8_t *header = w;
        w += F::kHeaders * F::kHeaderBytes;
        for (int64_t i = smaller(p.layout.blocks_per_group, left); i > 0; i--, left--) {
            if (asks) ask_ahead<F::kLines>(w + p.tuning->ahead_bytes);
            tile.add_block(x++, stride, header, w, table);
            w += block_bytes;
        }
    }
    tile.store(p, first_row);
}

// A tile of as many rows as there are a tile for; returns how many.
template <class Q, class F, int M>
QUIRE_INLINE int64_t integer_tile_of(const IntegerProduct &p, int64_t first_row, int64_t rows) {
    if constexpr (M > Q::kLeastRows) {
        constexpr int kLess = F::kHasEveryTile ? M - 1 : M / 2;
        if (rows < M) return integer_tile_of<Q, F, kLess>(p, first_row, rows);
    }
    integer_tile<Q, F, M>(p, first_row);
    return M;
}

// All rows times one panel, in the fewest tiles, which are then as even as can be.
template <class Q, class F>
void integer_panel(const IntegerProduct &p, int64_t num_rows) {
    const int64_t most = larger(Q::kLeastRows, tile_rows(*p.tuning, Q::kMaxRows));
    for (int64_t row = 0; row < num_rows;) {
        const int64_t left = num_rows - row, tiles = ceil_div(left, most);
        row += integer_tile_of<Q, F, Q::kMaxRows>(p, row, ceil_div(left, tiles));
    }
}

// Units run over blocks of rows, then panels: the codes of a block of rows stay near.
template <class Q>
void integer_part(const quire_op &op, const Run &run, int part, int64_t column, int64_t first_unit,
                  int64_t last_unit) {
    const quire_matrix &matrix = op.parts[part];
    const PackedLayout layout = packed_layout(matrix);
    const int64_t panels = ceil_div(matrix.rows, kPanelRows);
    const float factor = float_from_bits(uint32_t(matrix.exponent + 127) << 23);
    const quire_tuning &tuning = tuning_of(run, matrix);
    const int64_t most_rows = block_rows(tuning, matrix);
    with_format<Q::kSmallTables>(matrix, [&](auto format) {
        using F = decltype(format);
        uint8_t table[16];
        for (int i = 0; i < 16; i++) table[i] = uint8_t(matrix.table[i] + F::kTableOffset);
        for (int64_t unit = first_unit; unit < last_unit; unit++) {
            const int64_t m = unit / panels * most_rows, panel = unit % panels;
            const int64_t n = panel * kPanelRows;
            const IntegerProduct product = {
                reinterpret_cast<const QuantizedBlock *>(run.row(op.in[0], m)),
                op.in[0].stride * int64_t(sizeof(float)),
                static_cast<const uint8_t *>(matrix.data) + panel * layout.panel_bytes(),
                layout,
                table,
                factor,
                op.vectors[part] ? op.vectors[part] + n : nullptr,
                run.row(op.out[0], m) + column + n,
                op.out[0].stride,
                smaller(matrix.rows - n, kPanelRows),
                &tuning};
            integer_panel<Q, F>(product, smaller(run.num_rows - m, most_rows));
        }
    });
}

}  // namespace
}  // namespace quire
