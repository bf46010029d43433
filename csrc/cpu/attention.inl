// Attention over paged keys and values, one pass over them.
//
// A unit is a kv head of a span: the queries of neighbouring tokens of one request, for the query
// heads of that kv head ("rows"), use each loaded key and value together.  Positions are walked in
// chunks whose borders are fixed multiples of kChunk.  Each chunk gives a partial result by itself,
// and these are merged from the oldest on: so it does not matter who computed them, nor which rows
// share a tile.  A row's weights and values run over the positions it sees and no others.
namespace quire {
namespace {

// Walks some chunks of a unit; the keys of the next one are asked for beside the values of each.
template <class V, class Cache>
void attend(AttentionUnit<V, Cache> &unit, int64_t first, int64_t count) {
    unit.make_groups();
    const CachedBlocks<V, Cache> blocks(unit);
    KeyScores<V, Cache> scores(unit);
    ValueSums<V, Cache> sums(unit);
    scores.read_queries();
    blocks.find(first, unit.now);
    for (int64_t chunk = first; chunk < first + count; chunk++) {
        if (chunk + 1 < first + count) {
            blocks.find(chunk + 1, unit.next);
        } else {
            unit.next->from = unit.next->to = 0;
        }
        const Partial out = unit.partial(chunk);
        scores.make_scores();
        for (int64_t r = 0; r < unit.num_rows; r++) unit.make_weights(r, out);
        if constexpr (kPairsOfValues<V, Cache>) {
            for (int64_t r = 0; r < unit.num_rows; r++) unit.round_weights(r);
        }
        sums.add_values(out);
        if (unit.tile.partials < 0) unit.merge(chunk);
        Chunk<Cache> *done = unit.now;
        unit.now = unit.next;
        unit.next = done;
    }
    if (unit.tile.partials < 0) unit.finish();
}

template <class V>
size_t attention_scratch_bytes(const quire_op &op, const Run &run) {
    const int64_t rows = run.tile_tokens * (op.heads / op.kv_heads);
    char *const start = reinterpret_cast<char *>(uintptr_t(64));  // any aligned address
    return size_t(AttentionMemory<V, Code8>(start, rows, op.head_dim).next - start);
}

template <class V, class Cache>
void attention_as(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
        const KeySpan &span = run.spans[i % run.num_spans];
        AttentionUnit<V, Cache> unit(op, run, span.tile, i / run.num_spans, scratch);
        attend(unit, span.first_chunk, span.num_chunks);
    }
}

template <class V>
void attention(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    switch (run.program->kv_dtype) {
        case QUIRE_KV_F32:
            return attention_as<V, float>(op, run, scratch, first, last);
        case QUIRE_KV_F16:
            return attention_as<V, Half>(op, run, scratch, first, last);
        case QUIRE_KV_BF16:
            return attention_as<V, BFloat16>(op, run, scratch, first, last);
        case QUIRE_KV_INT8:
            return attention_as<V, Code8>(op, run, scratch, first, last);
        case QUIRE_KV_FLOAT8:
            return attention_as<V, Float8>(op, run, scratch, first, last);
        default:
            return attention_as<V, Code4>(op, run, scratch, first, last);
    }
}

// The second half of attention for tiles with several spans; the cache's format is past.
template <class V>
void merge_attention(const quire_op &op, const Run &run, char *scratch, int64_t first,
                     int64_t last) {
    for (int64_t i = first; i < last; i++) {
        const int32_t tile = run.split_tiles[i % run.num_split_tiles].tile;
        AttentionUnit<V, float>(op, run, tile, i / run.num_split_tiles, scratch).merge_all();
    }
}

}  // namespace
}  // namespace quire
