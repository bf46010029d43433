// The quantize op, and row kernels whose first output is quantized.
namespace quire {
namespace {

QUIRE_INLINE auto row_quantizer(const quire_op &op, const Run &run) {
    return op.row_dtype == QUIRE_BF16 ? run.kernels->bfloat16s.round_row
                                      : run.kernels->integers.quantize_row;
}

void quantize(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    const auto quantize_row = row_quantizer(op, run);
    for (int64_t t = first; t < last; t++) {
        quantize_row(run.row(op.in[0], t), op.order, op.in[0].cols, run.row(op.out[0], t));
    }
}

// Runs row by row into the thread's scratch if the output is to be quantized.
template <Kernel kernel>
void then_quantize(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    if (op.row_dtype == QUIRE_F32) return kernel(op, run, scratch, first, last);
    const auto quantize_row = row_quantizer(op, run);
    quire_op plain = op;
    float *row = reinterpret_cast<float *>(scratch);
    plain.out[0].cols = op.in[0].cols;
    plain.out[0].stride = 0;
    plain.out[0].offset = row - run.program->arena;
    for (int64_t t = first; t < last; t++) {
        kernel(plain, run, scratch, t, t + 1);
        quantize_row(row, op.order, op.in[0].cols, run.row(op.out[0], t));
    }
}

}  // namespace
}  // namespace quire
