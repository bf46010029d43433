// Scores: a few query rows times the keys of a few vectors of positions.
//
// Each score is one sum over d in order, whatever the tile.  Keys of Code8 and Code4 meet queries rounded
// to 16 bits: the sums of products of pairs are then exact integers, at twice the speed of float32.
namespace quire {
namespace {

// So many sums are kept in registers; the others hold what is multiplied.
template <class V>
constexpr int kNumSums = V::kRegisters * 3 / 4;
// So many rows of queries are computed together at most, and so many vectors go beside M of them.
template <class V>
constexpr int kGroupRows = kNumSums<V> / 2 < 8 ? kNumSums<V> / 2 : 8;
template <class V, int M>
constexpr int vectors_beside() {
    return kNumSums<V> / M < 8 ? kNumSums<V> / M : 8;
}

// Fewer where tiles would not fill a chunk: the last one is moved back over the one before.
template <class V, int M>
constexpr int scored_vectors() {
    constexpr int kVectors = kChunk / V::kWidth;
    int n = vectors_beside<V, M>();
    while (16 * ((kVectors + n - 1) / n * n - kVectors) > kVectors) n--;
    return n;
}

// Whether values are multiplied as keys are: codes by integers.
template <class V, class Cache>
constexpr bool kPairsOfValues = V::kPairsOfValues && KvFormat<Cache>::kPairs;
// Whether keys of 4 bits are made keys of 8, once for all rows that meet them.
template <class V, class Cache>
constexpr bool kWidensKeys = V::kPairsOfValues && KvFormat<Cache>::kNumbersPerValue > 1;
// So many vectors of sums of pairs go beside M rows: they wait for nothing, but their products need
// a register.
template <int M>
constexpr int kPairedVectors = M > 2    ? 2
                               : M == 2 ? 4
                                        : 8;

template <int N>
struct Count {
    static constexpr int value = N;
};

// Calls body(Count<rows>()).
template <int Most, class Body>
QUIRE_INLINE void with_rows(int64_t rows, Body body) {
    if constexpr (Most > 1) {
        if (rows < Most) return with_rows<Most - 1>(rows, body);
    }
    body(Count<Most>());
}

// What is multiplied at each step over d, and added up.
template <class V, class Cache>
struct ScoreSteps {
    using Query = float;
    using Sum = typename V::Float;
    static QUIRE_INLINE Sum zero() { return V::zero(); }
    static QUIRE_INLINE Sum query(Query q) { return V::broadcast(q); }
    static QUIRE_INLINE Sum key(const Cache *k) { return V::load(k); }
    static QUIRE_INLINE Sum add(Sum q, Sum k, Sum sum) { return V::fma(q, k, sum); }
};

template <class V, class Cache>
struct PairSteps {
    using Query = int32_t;  // a pair of int16
    using Sum = typename V::Int;
    static QUIRE_INLINE Sum zero() { return V::int_zero(); }
    static QUIRE_INLINE Sum query(Query q) { return V::broadcast_pair(q); }
    static QUIRE_INLINE Sum key(const Cache *k) { return V::load_pairs(k); }
    static QUIRE_INLINE Sum add(Sum q, Sum k, Sum sum) { return V::add_pair_products(q, k, sum); }
};
template <class V>
struct ScoreSteps<V, Code8> : PairSteps<V, Code8> {};
template <class V>
struct ScoreSteps<V, Code4> : PairSteps<V, Code4> {};

// queries [steps, query_stride]; keys[n] + i * key_stride: the positions of vector n at step i.
// ahead[n], unless it is null: as much memory as the keys of vector n take, asked for on the way.
template <class V, class Cache, int M, int N>
QUIRE_INLINE void score_tile(const typename ScoreSteps<V, Cache>::Query *queries,
                             int64_t query_stride, const Cache *const *keys, int64_t key_stride,
                             int64_t steps, const Cache *const *ahead,
                             typename ScoreSteps<V, Cache>::Sum (&sums)[M][N]) {
    using Steps = ScoreSteps<V, Cache>;
    constexpr int64_t kNumbers = V::kWidth * KvFormat<Cache>::kKeyElements;  // at a step
    constexpr int64_t kStepsPerLine = 64 / (kNumbers * sizeof(Cache));
    const Cache *key[N];
    QUIRE_UNROLL
    for (int n = 0; n < N; n++) {
        key[n] = keys[n];
        QUIRE_UNROLL
        for (int m = 0; m < M; m++) sums[m][n] = Steps::zero();
    }
    for (int64_t i = 0; i < steps; i++, queries += query_stride) {
        const int64_t line = i & -kStepsPerLine, first = i - line;
        QUIRE_UNROLL
        for (int64_t n = 0; n < N; n += kStepsPerLine) {
            if (ahead && n + first < N) QUIRE_PREFETCH_L2(ahead[n + first] + line * kNumbers);
        }
        if constexpr (M <= N) {
            typename Steps::Sum q[M];
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) q[m] = Steps::query(queries[m]);
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) {
                const typename Steps::Sum k = Steps::key(key[n] + i * key_stride);
                QUIRE_UNROLL
                for (int m = 0; m < M; m++) sums[m][n] = Steps::add(q[m], k, sums[m][n]);
            }
        } else {
            typename Steps::Sum k[N];
            QUIRE_UNROLL
            for (int n = 0; n < N; n++) k[n] = Steps::key(key[n] + i * key_stride);
            QUIRE_UNROLL
            for (int m = 0; m < M; m++) {
                const typename Steps::Sum q = Steps::query(queries[m]);
                QUIRE_UNROLL
                for (int n = 0; n < N; n++) sums[m][n] = Steps::add(q, k[n], sums[m][n]);
            }
        }
    }
}

}  // namespace
}  // namespace quire
