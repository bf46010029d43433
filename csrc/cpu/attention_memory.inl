// What a unit of attention keeps while it works.
namespace quire {
namespace {

// The blocks of a chunk.  For each vector of positions: its keys, its values and their scales.
template <class Cache>
struct Chunk {
    int64_t start, from, to;  // from and to count from start, in vectors
    const Cache **keys, **values;
    const Cache **shares;  // of the memory of keys: as much as the values of a vector take
    const float **key_scales, **value_scales;
};

// Softmax over some positions, not yet divided: [R, P] and [R] twice.
struct Partial {
    float *sums, *maxima, *totals;

    Partial(float *memory, int64_t rows, int64_t dims)
        : sums(memory), maxima(memory + rows * dims), totals(maxima + rows) {}
};

// Rows of queries that are computed together: what any of them sees, and what all of them see.
struct RowGroup {
    int64_t row, count;
    int64_t oldest, newest, common_oldest, common_newest;
};

// Scratch memory of a unit: R rows, D dims.
template <class V, class Cache>
struct AttentionMemory {
    using Query = typename ScoreSteps<V, Cache>::Query;
    static constexpr int64_t kVectors = kChunkRoom / V::kWidth;

    char *next;
    Query *queries;            // [steps, R]
    float *query_scales;       // [R], where queries are codes
    float *query_sums;         // [R], of what these codes stand for
    float *weighted_minimums;  // [R], of the values of a chunk, where they have any
    float *weights;            // [R, kChunkRoom]: scores, then softmax weights
    int32_t *weight_pairs;     // [R, kChunkRoom / 2], where values are multiplied as pairs
    float *weight_units;       // [R], what these are to be times
    float *panel;              // a part of the keys or values as float32
    float *own, *all;          // partial results: of one chunk, and of all so far
    RowGroup *groups;
    int64_t *oldest, *newest;  // [R]: the positions that a row sees
    Chunk<Cache> chunks[2];

    AttentionMemory(char *start, int64_t rows, int64_t D) : next(start) {
        queries = take<Query>(rows * (D + 1));
        query_scales = take<float>(rows);
        query_sums = take<float>(rows);
        weighted_minimums = take<float>(rows);
        weights = take<float>(rows * kChunkRoom);
        weight_pairs = take<int32_t>(rows * kChunkRoom / 2);
        weight_units = take<float>(rows);
        panel = take<float>(larger(D, kChunkRoom) * 2 * V::kWidth);
        own = take<float>(partial_floats(rows, D));
        all = take<float>(partial_floats(rows, D));
        groups = take<RowGroup>(rows);
        oldest = take<int64_t>(rows);
        newest = take<int64_t>(rows);
        for (Chunk<Cache> &chunk : chunks) {
            chunk = {};
            chunk.keys = take<const Cache *>(kVectors);
            chunk.values = take<const Cache *>(kVectors);
            chunk.shares = take<const Cache *>(kVectors);
            chunk.key_scales = take<const float *>(kVectors);
            chunk.value_scales = take<const float *>(kVectors);
        }
    }

    template <class T>
    T *take(int64_t count) {
        T *taken = reinterpret_cast<T *>(next);
        next += round_up(count * int64_t(sizeof(T)), 64);
        return taken;
    }
};

}  // namespace
}  // namespace quire
