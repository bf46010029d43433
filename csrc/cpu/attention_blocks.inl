// Where the keys and values of a chunk lie, and asking for them before they are needed.
namespace quire {
namespace {

template <class V, class Cache>
struct CachedBlocks {
    using Format = KvFormat<Cache>;

    const AttentionUnit<V, Cache> &unit;
    const int64_t B, D, value_stride;

    explicit CachedBlocks(const AttentionUnit<V, Cache> &unit)
        : unit(unit), B(unit.B), D(unit.D), value_stride(value_elements<Cache>(unit.D)) {}

    // Finds the blocks of a chunk that rows see.
    void find(int64_t index, Chunk<Cache> *chunk) const {
        const int64_t start = index * unit.C;
        const int64_t oldest = unit.oldest_of(0), newest = unit.newest_of(unit.num_rows - 1);
        const int64_t first = larger(oldest, start) / B, end = smaller(newest + 1, start + unit.C);
        const int64_t last = ceil_div(end, B);
        chunk->start = start;
        chunk->from = (first * B - start) / V::kWidth;
        chunk->to = larger((last * B - start) / V::kWidth, chunk->from);
        const quire_program &program = *unit.run.program;
        const int32_t *table = unit.run.step->block_tables +
                               int64_t(unit.tile.request) * unit.run.step->block_table_stride;
        int64_t vector = chunk->from;
        for (int64_t block = first; block < last; block++) {
            const HeadOfBlock<Cache> head =
                head_of_block<Cache>(program.kv + program.kv_layer_offset[unit.op.layer] +
                                         table[block] * program.kv_block_bytes[unit.op.layer],
                                     B, unit.op.kv_heads, D, unit.kv_head);
            for (int64_t offset = 0; offset < B; offset += V::kWidth, vector++) {
                chunk->keys[vector] = head.keys + offset * Format::kKeyElements;
                chunk->values[vector] = head.values + offset * value_stride;
                chunk->shares[vector] = head.keys + offset * value_stride;
                chunk->key_scales[vector] = head.key_scales + offset;
                chunk->value_scales[vector] = head.value_scales + offset;
            }
        }
    }

    // Ask for a vector's share of its block's memory.
    QUIRE_INLINE void fetch(const Cache *from, int64_t numbers) const {
        for (int64_t i = 0; i < numbers; i += 64 / sizeof(Cache)) QUIRE_PREFETCH_L2(from + i);
    }
    QUIRE_INLINE void fetch_values(int64_t vector) const {
        fetch(unit.now->values[vector], value_stride * V::kWidth);
        fetch_scales(unit.now->value_scales[vector]);
    }
    QUIRE_INLINE void fetch_scales(const float *scales) const {
        if constexpr (Format::kScales) QUIRE_PREFETCH_L2(scales);
        if constexpr (Format::kMinimums) QUIRE_PREFETCH_L2(scales + unit.minimums);
    }
    // Where position p's share of the keys of the next chunk lies, or null.
    QUIRE_INLINE const Cache *next_keys(int64_t p) const {
        const int64_t vector = p / V::kWidth;
        if (vector < unit.next->from || vector >= unit.next->to) return nullptr;
        return unit.next->shares[vector] + p % V::kWidth * value_stride;
    }
};

}  // namespace
}  // namespace quire
