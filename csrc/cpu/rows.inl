// Ops whose unit is one row and that only move numbers: embedding and select.
namespace quire {
namespace {

// 0 stands for 1: an op that does not name its scale has none.
QUIRE_INLINE float scale_of(const quire_op &op) {
    return op.scale == 0.0f ? 1.0f : op.scale;
}

QUIRE_INLINE int64_t embedding_row(const quire_op &op, const Run &run, int64_t t) {
    if (op.index == QUIRE_BY_TOKEN) return run.step->token_ids[t];
    return op.index == QUIRE_BY_POSITION ? run.step->positions[t] + int64_t(op.index_offset) : 0;
}

// The given row that token t has, NULL where it has one of the table.
QUIRE_INLINE const float *given_row(const quire_op &op, const Run &run, int64_t t) {
    const int64_t cols = op.parts[0].cols, token = run.step->token_ids[t];
    if (op.index == QUIRE_GIVEN_ROW) return run.step->given_rows + t * cols;
    const bool is_given = op.index == QUIRE_BY_TOKEN && token < 0;
    return is_given ? run.step->given_rows + (-1 - token) * cols : nullptr;
}

template <class V>
void copy_row(const float *from, float *to, int64_t cols) {
    for_each_vector<V>(cols, [&](auto load, auto store) { store(to, load(from)); });
}

template <class V, class Weight>
void embedding_rows(const quire_op &op, const Run &run, int64_t first, int64_t last) {
    const Weight *table = static_cast<const Weight *>(op.parts[0].data);
    const int64_t cols = op.parts[0].cols;
    const auto scale = V::broadcast(scale_of(op));
    for (int64_t t = first; t < last; t++) {
        float *to = run.row(op.out[0], t);
        if (const float *given = given_row(op, run, t)) {
            copy_row<V>(given, to, cols);
            continue;
        }
        const Weight *from = table + embedding_row(op, run, t) * cols;
        for_each_vector<V>(cols,
                           [&](auto load, auto store) { store(to, V::mul(load(from), scale)); });
    }
}

template <class V>
void embedding(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    switch (op.parts[0].dtype) {
        case QUIRE_F32:
            return embedding_rows<V, float>(op, run, first, last);
        case QUIRE_F16:
            return embedding_rows<V, Half>(op, run, first, last);
        case QUIRE_BF16:
            return embedding_rows<V, BFloat16>(op, run, first, last);
        default:
            const auto scale = V::broadcast(scale_of(op));
            for (int64_t t = first; t < last; t++) {
                float *to = run.row(op.out[0], t);
                if (const float *given = given_row(op, run, t)) {
                    copy_row<V>(given, to, op.parts[0].cols);
                    continue;
                }
                unpack_row(op.parts[0], embedding_row(op, run, t), op.order, to);
                for_each_vector<V>(op.parts[0].cols, [&](auto load, auto store) {
                    store(to, V::mul(load(to), scale));
                });
            }
    }
}

template <class V>
void select_rows(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t s = first; s < last; s++) {
        copy_row<V>(run.row(op.in[0], run.logit_rows[s]), run.row(op.out[0], s), op.out[0].cols);
    }
}

}  // namespace
}  // namespace quire
