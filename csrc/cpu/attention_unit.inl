// What attention of every kind is made of: the rows of a unit, their softmax over a chunk of positions,
// and the partial results of chunks, merged from the oldest on.
namespace quire {
namespace {

constexpr float kLowest = -3.4028234663852886e38f;  // below every score, yet a number to subtract

// More groups of rows than these go through a panel of numbers that are converted once for all.
template <class V, class Cache>
constexpr int64_t kGroupsInPlace = kWidensKeys<V, Cache> ? 1 : 4;

template <class V, class Cache>
struct AttentionUnit {
    using Format = KvFormat<Cache>;

    const quire_op &op;
    const Run &run;
    const QueryTile &tile;
    const int64_t kv_head, B, D, P, C, group, num_rows;
    const int64_t minimums;  // floats from a scale to its minimum
    const bool bends;
    AttentionMemory<V, Cache> memory;
    Partial all;
    Chunk<Cache> *now, *next;
    int64_t num_groups;

    AttentionUnit(const quire_op &op, const Run &run, int64_t tile, int64_t kv_head, char *scratch)
        : op(op),
          run(run),
          tile(run.tiles[tile]),
          kv_head(kv_head),
          B(run.program->block_tokens),
          D(op.head_dim),
          P(padded_dims(D)),
          C(chunk_positions(B)),
          group(op.heads / op.kv_heads),
          num_rows(this->tile.num_tokens * group),
          minimums(2 * op.kv_heads * B),
          bends(op.cap > 0 || op.vectors[1]),
          memory(scratch, num_rows, D),
          all(memory.all, num_rows, P),
          now(memory.chunks),
          next(memory.chunks + 1) {
        for (int64_t i = 0; i < num_rows * P; i++) all.sums[i] = 0.0f;
        const float *sinks = op.vectors[0];
        for (int64_t r = 0; r < num_rows; r++) {
            all.maxima[r] = kLowest, all.totals[r] = 0.0f;
            // A sink has a weight and no value.
            if (sinks) all.maxima[r] = sinks[head_of(r)] * kLog2E, all.totals[r] = 1.0f;
            const quire_step &step = *run.step;
            const int64_t position = step.positions[this->tile.first_token + r / group];
            const int64_t last = step.query_start[this->tile.request + 1] - 1;
            memory.newest[r] = op.bidirectional ? step.positions[last] : position;
            memory.oldest[r] = oldest_seen(op, position);
        }
    }

    QUIRE_INLINE int64_t head_of(int64_t row) const { return kv_head * group + row % group; }
    QUIRE_INLINE int64_t newest_of(int64_t row) const { return memory.newest[row]; }
    QUIRE_INLINE int64_t oldest_of(int64_t row) const { return memory.oldest[row]; }
    // The positions of the chunk in hand that a row sees, from its start: [first, end).
    QUIRE_INLINE int64_t first_of(int64_t row) const {
        return smaller(larger(oldest_of(row) - now->start, 0), C);
    }
    QUIRE_INLINE int64_t end_of(int64_t row) const {
        return smaller(larger(newest_of(row) + 1 - now->start, 0), C);
    }

    // Rows in groups of nearly the same size.
    void make_groups() {
        num_groups = ceil_div(num_rows, kGroupRows<V>);
        int64_t row = 0;
        for (int64_t i = 0; i < num_groups; i++) {
            const int64_t count = (num_rows - row) / (num_groups - i), last = row + count - 1;
            memory.groups[i] = {
                row, count, oldest_of(row), newest_of(last), oldest_of(last), newest_of(row)};
            row += count;
        }
    }

    // The numbers from first on and before end of a vector; zeros in place of the others.
    static QUIRE_INLINE typename V::Float seen_of(const float *numbers, int64_t first,
                                                  int64_t end) {
        if (first <= 0 && end >= V::kWidth) return V::load(numbers);
        float seen[V::kWidth];
        for (int64_t i = 0; i < V::kWidth; i++) seen[i] = i >= first && i < end ? numbers[i] : 0.0f;
        return V::load(seen);
    }

    // Turns one row's scores into weights, which take in the scales of the values.
    void make_weights(int64_t row, const Partial &out) {
        float *score = memory.weights + row * kChunkRoom;
        const int64_t first = first_of(row), end = end_of(row);
        out.maxima[row] = kLowest, out.totals[row] = 0.0f, memory.weighted_minimums[row] = 0.0f;
        memory.weight_units[row] = FLT_MIN;
        if (first >= end) return;
        const int64_t from = first / V::kWidth * V::kWidth, to = round_up(end, V::kWidth);
        if (bends) bend_scores<V>(op, head_of(row), newest_of(row) - now->start, score, from, to);
        for (int64_t p = from; p < first; p++) score[p] = -INFINITY;
        for (int64_t p = end; p < to; p++) score[p] = -INFINITY;

        auto top = V::broadcast(kLowest);
        for (int64_t p = from; p < to; p += V::kWidth) top = V::max(V::load(score + p), top);
        const auto shift = V::broadcast(V::max_lane(top));
        auto total = V::zero(), minimum = V::zero(), most = V::zero(), taint = V::zero();
        for (int64_t p = from; p < to; p += V::kWidth) {
            auto weight = vector_exp2<V>(V::sub(V::load(score + p), shift));
            total = V::add(total, weight);
            if constexpr (Format::kMinimums) {
                const float *numbers = now->value_scales[p / V::kWidth] + minimums;
                minimum = V::fma(weight, seen_of(numbers, first - p, end - p), minimum);
            }
            if constexpr (kPairsOfValues<V, Cache>) {
                const float *scales = now->value_scales[p / V::kWidth];
                weight = V::mul(weight, seen_of(scales, first - p, end - p));
                most = V::max(weight, most);
                taint = V::add(taint, weight);
            } else if constexpr (Format::kScales) {
                const auto scale = V::load(now->value_scales[p / V::kWidth]);
                weight = V::mul(weight, V::mul(scale, V::broadcast(Format::kUnit)));
            }
            V::store(score + p, weight);
        }
        if constexpr (Format::kMinimums) memory.weighted_minimums[row] = V::sum(minimum);
        if constexpr (kPairsOfValues<V, Cache>) {
            const float unit = V::max_lane(most) / 32767.0f;  // it is to have an inverse
            memory.weight_units[row] =
                V::sum(taint) >= 0.0f ? (unit > FLT_MIN ? unit : FLT_MIN) : NAN;
        }
        out.maxima[row] = V::max_lane(top);
        out.totals[row] = V::sum(total);
    }

    // Rounds one row's weights to units, 32767 of the largest; those that it does not see are 0.
    void round_weights(int64_t row) {
        const float *weights = memory.weights + row * kChunkRoom;
        int32_t *pairs = memory.weight_pairs + row * kChunkRoom / 2;
        const int64_t first = first_of(row), end = end_of(row), last = now->to * V::kWidth;
        const int64_t from = smaller(first / V::kWidth * V::kWidth, last);
        const int64_t to = smaller(end > first ? round_up(end, V::kWidth) : from, last);
        const auto factor = V::broadcast(1.0f / memory.weight_units[row]);
        for (int64_t p = 0; p < from; p += V::kWidth) V::store_pairs(pairs + p / 2, V::zero());
        for (int64_t p = from; p < to; p += V::kWidth) {
            V::store_pairs(pairs + p / 2, V::mul(V::load(weights + p), factor));
        }
        for (int64_t p = to; p < last; p += V::kWidth) V::store_pairs(pairs + p / 2, V::zero());
    }

    QUIRE_INLINE Partial partial(int64_t chunk) const {
        if (tile.partials < 0) return Partial(memory.own, num_rows, P);
        const int64_t index = kv_head * tile.num_chunks + chunk - tile.first_chunk;
        return Partial(run.partials + tile.partials + index * partial_floats(num_rows, D), num_rows,
                       P);
    }

    // Takes in the partial result of a chunk, for the rows that see any of it.
    void merge(int64_t chunk) {
        const Partial part = partial(chunk);
        for (int64_t r = 0; r < num_rows; r++) {
            if (newest_of(r) < chunk * C || oldest_of(r) >= (chunk + 1) * C) continue;
            const float before = all.maxima[r],
                        maximum = before > part.maxima[r] ? before : part.maxima[r];
            float factors[V::kWidth] = {before - maximum, part.maxima[r] - maximum};
            V::store(factors, vector_exp2<V>(V::load(factors)));
            const auto old = V::broadcast(factors[0]), fresh = V::broadcast(factors[1]);
            float *to = all.sums + r * P;
            const float *from = part.sums + r * P;
            for (int64_t d = 0; d < P; d += V::kWidth) {
                V::store(to + d, V::fma(fresh, V::load(from + d), V::mul(old, V::load(to + d))));
            }
            all.totals[r] = all.totals[r] * factors[0] + part.totals[r] * factors[1];
            all.maxima[r] = maximum;
        }
    }

    void finish() {
        for (int64_t r = 0; r < num_rows; r++) {
            float *to = run.row(op.out[0], tile.first_token + r / group) + head_of(r) * D;
            const float *from = all.sums + r * P;
            const auto factor = V::broadcast(1.0f / all.totals[r]);
            for_each_vector<V>(
                D, [&](auto load, auto store) { store(to, V::mul(load(from), factor)); });
        }
    }

    void merge_all() {
        for (int64_t i = 0; i < tile.num_chunks; i++) merge(tile.first_chunk + i);
        finish();
    }
};

}  // namespace
}  // namespace quire
