// A mixture of experts, made of the linear op: an expert's tokens are its rows.
//
// The rows of an expert's hidden layer stand side by side in the op's room, expert after expert;
// so `down` finds them in place.  A token's sum adds its experts in ascending order, whatever other
// tokens there are and whoever computes it.
#include "experts.h"

#include <string.h>

#include "integers.h"
#include "packed.h"
#include "tuning.h"

namespace quire {
namespace {

// Columns of a product that stand in scratch memory; few rows leave room for more.
constexpr int64_t kColumnsOnce = 256, kFewRows = 4, kColumnsOfFew = 2048;
constexpr int64_t kBytesAhead = 1024;  // of weights, where a new stream of them begins

enum Place { kGate, kUp, kDown, kNumPlaces };

const quire_matrix &matrix_of(const quire_op &op, int64_t expert, Place place) {
    return op.experts->matrices[expert * kNumPlaces + place];
}

const float *bias_of(const quire_op &op, int64_t expert, Place place) {
    return op.experts->biases ? op.experts->biases[expert * kNumPlaces + place] : nullptr;
}

// The rows [first, last) of a matrix; first is a multiple of the rows of a panel.
quire_matrix row_range(const quire_matrix &matrix, int64_t first, int64_t last) {
    quire_matrix before = matrix, range = matrix;
    before.rows = first;
    range.rows = last - first;
    range.data = static_cast<const char *>(matrix.data) + matrix_bytes(before);
    return range;
}

int64_t hidden_width(const quire_op &op) {
    return matrix_of(op, 0, kGate).rows;
}

// The room of `cols` numbers of a row; whole blocks.
int64_t row_floats(int32_t row_dtype, int64_t cols) {
    const int64_t blocks = ceil_div(cols, kBlock);
    if (row_dtype == QUIRE_F32) return blocks * kBlock;
    if (row_dtype == QUIRE_BF16) return blocks * kBlock / 2;
    return blocks * int64_t(sizeof(QuantizedBlock) / sizeof(float));
}

// From one row of the room to the next.
int64_t hidden_floats(const quire_op &op) {
    return row_floats(op.experts->hidden_dtype, hidden_width(op));
}

int64_t most_rows(const quire_op &op, const Run &run) {
    const quire_matrix &gate = matrix_of(op, 0, kGate);
    return smaller(block_rows(run.tunings[gate.dtype], gate),
                   larger(1, run.num_rows * op.experts->top_k));
}

// Floats at `data` as rows of the arena.
quire_tensor tensor_at(const Run &run, const float *data, int64_t stride, int64_t cols) {
    return {data - run.program->arena, int32_t(stride), int32_t(cols)};
}

// A thread's memory, and one expert's rows in it.
class ExpertWorker {
  public:
    ExpertWorker(const quire_op &op, const Run &run, char *scratch)
        : op_(op),
          run_(run),
          most_rows_(most_rows(op, run)),
          products_(reinterpret_cast<float *>(scratch)),
          row_(products_ + product_floats(most_rows_)),
          gathered_(row_ + kColumnsOfFew) {}

    static int64_t scratch_floats(const quire_op &op, const Run &run) {
        const int64_t rows = most_rows(op, run);
        return product_floats(rows) + kColumnsOfFew + rows * op.in[0].stride;
    }

    // The hidden columns [first, last) of an expert, for all of its tokens.
    void hidden(const ExpertRows &rows, int64_t first, int64_t last) {
        each_block(rows, [&](int64_t first_row, int64_t count) {
            const quire_tensor inputs = gather(first_row, count);
            const int64_t most_cols = count <= kFewRows ? kColumnsOfFew : kColumnsOnce;
            for (int64_t n = first; n < last; n += most_cols) {
                const int64_t cols = smaller(last - n, most_cols);
                ask(rows.expert, kUp, n);
                multiply(rows.expert, kGate, 2, inputs, op_.row_dtype, count, n, cols);
                if (op_.experts->scales_inputs) scale(first_row, count, 2 * cols);
                activate(first_row, count, n, cols);
            }
        });
    }

    // Adds an expert's part of the columns [first, last), of which there are at most kColumnsOnce.
    void add_sums(const ExpertRows &rows, int64_t first, int64_t last) {
        const int64_t cols = last - first, stride = hidden_floats(op_);
        each_block(rows, [&](int64_t first_row, int64_t count) {
            const quire_tensor inputs =
                tensor_at(run_, room_row(first_row), stride, hidden_width(op_));
            multiply(rows.expert, kDown, 1, inputs, op_.experts->hidden_dtype, count, first, cols);
            for (int64_t i = 0; i < count; i++) {
                const float weight = op_.experts->scales_inputs ? 1.0f : weight_of(first_row + i);
                float *to = run_.row(op_.out[0], run_.expert_rows[first_row + i].token) + first;
                const float *from = products_ + i * cols;
                for (int64_t c = 0; c < cols; c++) to[c] += weight * from[c];
            }
        });
    }

    // Asks for the first weights of a stream before its turn comes: the hardware follows a stream
    // by itself, but it is late to notice that there is a new one.
    void ask(int64_t expert, Place place, int64_t first) const {
        quire_matrix before = matrix_of(op_, expert, place);
        before.rows = first;
        const char *weights = static_cast<const char *>(before.data) + matrix_bytes(before);
        for (int64_t i = 0; i < kBytesAhead; i += 64) QUIRE_PREFETCH_L2(weights + i);
    }

  private:
    static int64_t product_floats(int64_t rows) {
        return larger(rows * kColumnsOnce, smaller(rows, kFewRows) * kColumnsOfFew) * 2;
    }

    template <class Body>
    void each_block(const ExpertRows &rows, Body body) {
        for (int64_t i = 0; i < rows.num_rows; i += most_rows_) {
            body(rows.first_row + i, smaller(rows.num_rows - i, most_rows_));
        }
    }

    float weight_of(int64_t row) const {
        const ExpertRow &chosen = run_.expert_rows[row];
        return run_.row(op_.in[1], chosen.token)[op_.experts->top_k + chosen.place];
    }

    float *room_row(int64_t row) const {
        return run_.program->arena + op_.out[1].offset + row * hidden_floats(op_);
    }

    // An expert's input rows, side by side; one row is read where it stands.
    quire_tensor gather(int64_t first_row, int64_t count) {
        const quire_tensor &in = op_.in[0];
        const auto input = [&](int64_t i) {
            return run_.row(in, run_.expert_rows[first_row + i].token);
        };
        if (count == 1) return tensor_at(run_, input(0), in.stride, in.cols);
        const int64_t floats =
            op_.row_dtype == QUIRE_F32 ? in.cols : row_floats(op_.row_dtype, in.cols);
        for (int64_t i = 0; i < count; i++) {
            memcpy(gathered_ + i * in.stride, input(i), sizeof(float) * floats);
        }
        return tensor_at(run_, gathered_, in.stride, in.cols);
    }

    // products_ = rows of in0 times the columns [first, first + cols) of one or two matrices.
    void multiply(int64_t expert, Place place, int num_parts, const quire_tensor &inputs,
                  int32_t row_dtype, int64_t count, int64_t first, int64_t cols) {
        quire_op product = {};
        product.kind = QUIRE_OP_LINEAR;
        product.in[0] = inputs;
        product.out[0] = tensor_at(run_, products_, num_parts * cols, num_parts * cols);
        product.num_parts = num_parts;
        product.row_dtype = row_dtype;
        for (int i = 0; i < num_parts; i++) {
            const float *bias = bias_of(op_, expert, Place(place + i));
            product.parts[i] =
                row_range(matrix_of(op_, expert, Place(place + i)), first, first + cols);
            product.vectors[i] = bias ? bias + first : nullptr;
        }
        Run rows = run_;
        rows.num_rows = count;
        run_.kernels->ops[QUIRE_OP_LINEAR](product, rows, nullptr, 0,
                                           run_.kernels->linear_units(product, rows));
    }

    void scale(int64_t first_row, int64_t count, int64_t cols) {
        for (int64_t i = 0; i < count; i++) {
            const float weight = weight_of(first_row + i);
            for (int64_t c = 0; c < cols; c++) products_[i * cols + c] *= weight;
        }
    }

    // Rows of the room from column `first` on = activation(gate, up), in the format of `down`.
    void activate(int64_t first_row, int64_t count, int64_t first, int64_t cols) {
        quire_op gated = op_;
        gated.in[0] = tensor_at(run_, products_, 2 * cols, cols);
        gated.in[1] = tensor_at(run_, products_ + cols, 2 * cols, cols);
        gated.row_dtype = op_.experts->hidden_dtype;
        float *to = room_row(first_row) + row_floats(gated.row_dtype, first);
        gated.out[0] = tensor_at(run_, to, hidden_floats(op_), cols);
        run_.kernels->ops[QUIRE_OP_GATED](gated, run_, reinterpret_cast<char *>(row_), 0, count);
    }

    const quire_op &op_;
    const Run &run_;
    const int64_t most_rows_;
    float *products_, *row_, *gathered_;
};

}  // namespace

bool ExpertPlan::sort(const quire_op &op, const Run &run) {
    const int32_t num_experts = op.experts->num_experts, k = op.experts->top_k;
    const auto find = [&](float id) -> ExpertRows * {  // null: it is of another rank
        const int64_t e = int64_t(id) - op.experts->first;
        return e >= 0 && e < num_experts ? &experts[e] : nullptr;
    };
    experts.assign(num_experts, {});
    rows.resize(run.num_rows * k);
    for (int32_t t = 0; t < run.num_rows; t++) {
        const float *ids = run.row(op.in[1], t);
        for (int32_t j = 0; j < k; j++) {
            if (!(ids[j] >= 0.0f && ids[j] < float(op.experts->num_routed))) return false;
            if (ExpertRows *expert = find(ids[j])) expert->num_rows++;
        }
    }
    int32_t used = 0, first = 0;
    for (int32_t e = 0; e < num_experts; e++) {
        experts[e].expert = e, experts[e].first_row = first;
        first += experts[e].num_rows;
        if (op.experts->usage) op.experts->usage[e] += experts[e].num_rows;
    }
    for (int32_t t = 0; t < run.num_rows; t++) {
        const float *ids = run.row(op.in[1], t);
        for (int32_t j = 0; j < k; j++) {
            if (ExpertRows *expert = find(ids[j])) rows[expert->first_row++] = {t, j};
        }
    }
    for (int32_t e = 0; e < num_experts; e++) {
        experts[e].first_row -= experts[e].num_rows;
        if (experts[e].num_rows > 0) experts[used++] = experts[e];
    }
    experts.resize(used);
    return true;
}

int64_t hidden_units(const quire_op &op, const Run &run) {
    return run.num_experts * ceil_div(hidden_width(op), kExpertColumns);
}

int64_t sum_units(const quire_op &op) {
    return ceil_div(op.out[0].cols, kExpertColumns);
}

void expert_hidden(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    const int64_t width = hidden_width(op), per_expert = ceil_div(width, kExpertColumns);
    ExpertWorker worker(op, run, scratch);
    for (int64_t unit = first; unit < last;) {
        const int64_t from = unit % per_expert, to = smaller(per_expert, from + last - unit);
        if (unit + to - from < last)
            worker.ask(run.experts[unit / per_expert + 1].expert, kGate, 0);
        worker.hidden(run.experts[unit / per_expert], from * kExpertColumns,
                      smaller(to * kExpertColumns, width));
        unit += to - from;
    }
}

void expert_sums(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    const int64_t end = smaller(last * kExpertColumns, op.out[0].cols);
    ExpertWorker worker(op, run, scratch);
    for (int64_t n = first * kExpertColumns; n < end; n += kColumnsOnce) {
        const int64_t cols = smaller(end - n, kColumnsOnce);
        for (int64_t t = 0; t < run.num_rows; t++) {
            memset(run.row(op.out[0], t) + n, 0, sizeof(float) * cols);
        }
        for (int64_t i = 0; i < run.num_experts; i++) {
            if (i + 1 < run.num_experts) worker.ask(run.experts[i + 1].expert, kDown, n);
            worker.add_sums(run.experts[i], n, n + cols);
        }
    }
}

int64_t hidden_bytes(const quire_op &op, const Run &run) {
    return run.num_experts *
           (matrix_bytes(matrix_of(op, 0, kGate)) + matrix_bytes(matrix_of(op, 0, kUp)));
}

int64_t sum_bytes(const quire_op &op, const Run &run) {
    return run.num_experts * matrix_bytes(matrix_of(op, 0, kDown));
}

size_t expert_scratch_bytes(const quire_op &op, const Run &run) {
    return sizeof(float) * ExpertWorker::scratch_floats(op, run);
}

}  // namespace quire
