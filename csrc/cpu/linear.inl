// Linear layers: the parts of one op side by side, each with the kernel of its weights' format.
namespace quire {
namespace {

// Units run over blocks of activation rows and blocks of weights.
QUIRE_INLINE int64_t part_units(const quire_matrix &part, const Run &run) {
    const int64_t block_cols = is_packed(part) ? kPanelRows : kBlockCols;
    return ceil_div(part.rows, block_cols) *
           ceil_div(run.num_rows, block_rows(tuning_of(run, part), part));
}

int64_t linear_units(const quire_op &op, const Run &run) {
    int64_t units = 0;
    for (int i = 0; i < op.num_parts; i++) units += part_units(op.parts[i], run);
    return units;
}

template <class V>
void linear(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    int64_t start = 0, column = 0;  // of the part
    for (int i = 0; i < op.num_parts; i++) {
        const int64_t end = start + part_units(op.parts[i], run);
        const int64_t from = larger(first, start) - start, to = smaller(last, end) - start;
        if (from < to) {
            switch (op.parts[i].dtype) {
                case QUIRE_F32:
                    float_part<FloatProducts<V, float>>(op, run, i, column, from, to);
                    break;
                case QUIRE_F16:
                    float_part<FloatProducts<V, Half>>(op, run, i, column, from, to);
                    break;
                case QUIRE_BF16:
                    op.row_dtype == QUIRE_BF16
                        ? run.kernels->bfloat16s.linear_part(op, run, i, column, from, to)
                        : float_part<FloatProducts<V, BFloat16>>(op, run, i, column, from, to);
                    break;
                case QUIRE_FLOAT8: {
                    [[maybe_unused]] typename V::Subnormals are_numbers;
                    float_part<Float8Products<V>>(op, run, i, column, from, to);
                    break;
                }
                default:
                    run.kernels->integers.linear_part(op, run, i, column, from, to);
            }
        }
        start = end;
        column += op.parts[i].rows;
    }
}

}  // namespace
}  // namespace quire
