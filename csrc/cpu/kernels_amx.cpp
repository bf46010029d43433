// The integer kernels for x86-64 with AMX-INT8: sixteen rows at a time.  What is left over is done by
// those of kernels_avx512vnni.cpp, with the same bits.
#include "integer_amx.h"
#include "vector_avx512.h"
//
#include "integer_kernels.inl"

namespace quire {
namespace {

using LinearPart = decltype(IntegerKernels::linear_part);

// The units [first, last) of an op that is only `count` rows, which begin at first_row.
void part_of_rows(LinearPart linear_part, quire_op op, Run run, int part, int64_t column,
                  int64_t first_row, int64_t count, int64_t first, int64_t last) {
    if (count == 0) return;
    op.in[0].offset += first_row * op.in[0].stride;
    op.out[0].offset += first_row * op.out[0].stride;
    run.num_rows = count;
    linear_part(op, run, part, column, first, last);
}

void amx_part(const quire_op &op, const Run &run, int part, int64_t column, int64_t first_unit,
              int64_t last_unit) {
    const quire_matrix &matrix = op.parts[part];
    const int64_t most_rows = block_rows(tuning_of(run, matrix), matrix);
    const int64_t panels = ceil_div(matrix.rows, kPanelRows);
    AmxInteger::begin();
    for (int64_t unit = first_unit; unit < last_unit;) {
        const int64_t from = unit % panels, to = smaller(panels, from + last_unit - unit);
        const int64_t row = unit / panels * most_rows,
                      rows = smaller(run.num_rows - row, most_rows);
        const int64_t whole = rows / AmxInteger::kMaxRows * AmxInteger::kMaxRows;
        part_of_rows(integer_part<AmxInteger>, op, run, part, column, row, whole, from, to);
        part_of_rows(kAvx512VnniIntegers.linear_part, op, run, part, column, row + whole,
                     rows - whole, from, to);
        unit += to - from;
    }
    AmxInteger::end();
}

}  // namespace

constexpr IntegerKernels kAmxIntegers = {Avx512VnniInteger::kMaxRows,
                                         Avx512VnniInteger::kAheadRows,
                                         Avx512VnniInteger::kAheadBytes,
                                         amx_part,
                                         quantize_row<Avx512Vector, AmxInteger>,
                                         AmxInteger::spin};

}  // namespace quire
