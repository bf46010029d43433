// Walks a Program: the body over the tokens of a step, then head and sampler over its logit rows.
#include <string.h>

#include <new>

#include "attention_plan.h"
#include "experts.h"
#include "integers.h"
#include "isa.h"
#include "packed.h"
#include "rope_angles.h"
#include "route_tokens.h"
#include "sampler.h"
#include "stopwatch.h"
#include "thread_pool.h"

namespace quire {
namespace {

constexpr int32_t kLanes = 16;  // of the widest instruction set: a block holds whole vectors
constexpr int64_t kInlineFloats = 16384;  // less work than that is not worth a second thread
constexpr int64_t kHiddenStreams = 4;     // gate and up of the end of an expert and of the next

class Walk {
  public:
    Walk(const quire_program &program, const quire_step &step, const Kernels &kernels)
        : program_(program), step_(step), kernels_(kernels), pool_(program.pool->threads) {
        run_.program = &program;
        run_.step = &step;
        run_.kernels = &kernels;
        run_.tunings = program.tunings ? program.tunings : own_tunings_;
        if (!program.tunings) default_tunings(kernels, own_tunings_);
    }

    int32_t body() {
        run_.num_rows = step_.num_tokens;
        return walk(program_.body, program_.num_body, 0);
    }

    int32_t head_and_sample() {
        const int32_t piece = program_.max_logit_rows, vocab = program_.vocab_size;
        for (int32_t first = 0; first < step_.num_logit_rows; first += piece) {
            const int32_t left = step_.num_logit_rows - first, rows = left < piece ? left : piece;
            run_.num_rows = rows;
            run_.logit_rows = step_.logit_rows + first;
            if (const int32_t status = walk(program_.head, program_.num_head, program_.num_body))
                return status;
            float *logits = run_.row(program_.logits, 0);
            const int64_t stride = program_.logits.stride;
            if (step_.logits_out) {
                for (int64_t i = 0; i < rows; i++) {
                    memcpy(step_.logits_out + (first + i) * vocab, logits + i * stride,
                           sizeof(float) * vocab);
                }
            }
            if (!step_.rows || !step_.results) continue;
            const Stopwatch watch = time_of(program_.num_body + program_.num_head);
            const int32_t status = sample_rows(pool_, kernels_, logits, stride, vocab, rows,
                                               step_.rows + first, step_.results + first);
            if (status) return status;
        }
        return QUIRE_OK;
    }

  private:
    // first: the place of the first of the ops among all of the Program.
    int32_t walk(const quire_op *ops, int32_t num_ops, int32_t first) {
        for (int32_t i = 0; i < num_ops; i++) {
            const Stopwatch watch = time_of(first + i);
            if (const int32_t status = run_op(ops[i])) return status;
        }
        return QUIRE_OK;
    }

    Stopwatch time_of(int32_t place) const {
        return Stopwatch(step_.op_nanoseconds ? step_.op_nanoseconds + place : nullptr);
    }

    int32_t run_op(const quire_op &op) {
        if (op.kind < 0 || op.kind >= kNumOpKinds) return QUIRE_BAD_OP;
        if (op.kind == QUIRE_OP_EXPERTS) return run_experts(op);
        const Kernel kernel = kernel_of(op);
        if (!kernel) return QUIRE_BAD_OP;
        if (op.kind == QUIRE_OP_EMBEDDING && !rows_fit(op)) return QUIRE_BAD_TOKEN;
        if (op.kind == QUIRE_OP_ATTENTION || op.kind == QUIRE_OP_LATENT_ATTENTION) {
            const int32_t size = program_.block_tokens;
            if (size % kLanes || chunk_positions(size) > kChunkRoom) return QUIRE_BAD_OP;
            return run_attention(kernel, op.kind == QUIRE_OP_ATTENTION ? op : in_parts(op));
        }
        if (!pool_.reserve_scratch(scratch_bytes(op))) return QUIRE_NO_MEMORY;
        int64_t units, grain;
        plan_units(op, &units, &grain);
        run_units(kernel, op, units, grain);
        return QUIRE_OK;
    }

    int32_t run_attention(Kernel kernel, const quire_op &op) {
        if (!plan_attention(op) || !pool_.reserve_scratch(scratch_bytes(op))) {
            return QUIRE_NO_MEMORY;
        }
        const bool is_small = plan_.work * op.head_dim < kInlineFloats * 4;
        const int64_t units = run_.num_spans * op.kv_heads;
        run_units(kernel, op, units, is_small ? units : 1);
        run_units(kernels_.merge_attention, op, run_.num_split_tiles * op.kv_heads, 1);
        return QUIRE_OK;
    }

    // Latent attention with its heads cut into so many parts that all threads have some, where the
    // step's tokens and chunks are fewer: every part reads the rows again, from a cache.
    quire_op in_parts(const quire_op &op) {
        plan_.cut(op, program_, step_, pool_.num_threads());
        const int64_t spans = int64_t(plan_.spans.size());
        quire_op cut = op;
        while (cut.kv_heads * spans < pool_.num_threads() && cut.kv_heads < op.heads) {
            do cut.kv_heads++;
            while (op.heads % cut.kv_heads);
        }
        return cut;
    }

    Kernel kernel_of(const quire_op &op) const {
        switch (op.kind) {
            case QUIRE_OP_ROPE_ANGLES:
                return rope_angles;
            case QUIRE_OP_ROUTE_TOKENS:
                return route_tokens;
            default:
                return kernels_.ops[op.kind];
        }
    }

    size_t scratch_bytes(const quire_op &op) const {
        return op.kind == QUIRE_OP_ROUTE_TOKENS ? route_scratch_bytes(*op.router)
                                                : kernels_.scratch_bytes(op, run_);
    }

    int32_t run_experts(const quire_op &op) {
        if (!experts_.sort(op, run_)) return QUIRE_BAD_OP;
        run_.experts = experts_.experts.data();
        run_.expert_rows = experts_.rows.data();
        run_.num_experts = int64_t(experts_.experts.size());
        if (!pool_.reserve_scratch(expert_scratch_bytes(op, run_))) return QUIRE_NO_MEMORY;
        const quire_matrix &matrix = op.experts->matrices[0];
        int64_t units = hidden_units(op, run_);
        run_units(expert_hidden, op, units,
                  product_grain(matrix, units, hidden_bytes(op, run_), kHiddenStreams));
        units = sum_units(op);
        run_units(expert_sums, op, units,
                  product_grain(matrix, units, sum_bytes(op, run_), run_.num_experts));
        return QUIRE_OK;
    }

    void run_units(Kernel kernel, const quire_op &op, int64_t units, int64_t grain) {
        pool_.parallel_for(units, grain, [&](int thread, int64_t first, int64_t last) {
            kernel(op, run_, pool_.scratch(thread), first, last);
        });
    }

    bool rows_fit(const quire_op &op) const {
        const bool by_token = op.index == QUIRE_BY_TOKEN;
        if (op.index == QUIRE_FIRST_ROW) return op.parts[0].rows > 0;
        if (op.index == QUIRE_GIVEN_ROW) return step_.num_tokens <= step_.num_given_rows;
        for (int32_t t = 0; t < step_.num_tokens; t++) {
            const int64_t row =
                by_token ? step_.token_ids[t] : step_.positions[t] + int64_t(op.index_offset);
            const bool is_given = by_token && row < 0 && -1 - row < step_.num_given_rows;
            if (!is_given && (row < 0 || row >= op.parts[0].rows)) return false;
        }
        return true;
    }

    // Plans attention; false: no memory for its partial results.
    bool plan_attention(const quire_op &op) {
        plan_.cut(op, program_, step_, pool_.num_threads());
        if (!pool_.reserve_shared(sizeof(float) * plan_.partial_floats)) return false;
        run_.tiles = plan_.tiles.data();
        run_.spans = plan_.spans.data();
        run_.split_tiles = plan_.split.data();
        run_.num_spans = int64_t(plan_.spans.size());
        run_.num_split_tiles = int64_t(plan_.split.size());
        run_.tile_tokens = plan_.tile_tokens;
        run_.partials = reinterpret_cast<float *>(pool_.shared());
        return true;
    }

    // How many units an op has and how many a thread takes at once.
    void plan_units(const quire_op &op, int64_t *units, int64_t *grain) const {
        if (op.kind == QUIRE_OP_LINEAR) {
            *units = kernels_.linear_units(op, run_);
            int64_t bytes = 0;
            for (int i = 0; i < op.num_parts; i++) {
                bytes += matrix_bytes(op.parts[i]);
            }
            *grain = product_grain(op.parts[0], *units, bytes);
        } else if (op.kind == QUIRE_OP_CONVOLUTION) {
            *units = kernels_.convolution_units(op, run_);
            *grain = 1 + kInlineFloats * *units / (run_.num_rows * op.in[0].cols * 16 + 1);
        } else if (op.kind == QUIRE_OP_RECURRENCE) {
            *units = int64_t(step_.num_requests) * op.recurrence->heads;
            *grain = 1;
        } else if (op.kind == QUIRE_OP_SCALE_LOGITS) {
            *units = run_.num_rows * ((op.in[0].cols + kScaledColumns - 1) / kScaledColumns);
            *grain = 1;
        } else if (op.kind == QUIRE_OP_LATENT_QUERIES || op.kind == QUIRE_OP_LATENT_VALUES) {
            *units = kernels_.projection_units(op, run_);
            const int64_t products = op.in[0].cols / op.heads * op.out[0].cols * run_.num_rows;
            const int64_t fair = *units / (4 * int64_t(pool_.num_threads()));
            *grain = products < kInlineFloats * 8 ? *units : fair;  // neighbours are one stream
        } else {
            *units = run_.num_rows;
            const int64_t cols = op.out[0].cols > op.in[0].cols ? op.out[0].cols : op.in[0].cols;
            *grain = kInlineFloats / (cols * relative_cost(op) + 1);
        }
    }

    // Units of products that read so many bytes of weights in all, in streams of neighbours.  The
    // hardware reads on behind the end of each: so they should be long.
    int64_t product_grain(const quire_matrix &matrix, int64_t units, int64_t bytes,
                          int64_t streams = 1) const {
        if (bytes * run_.num_rows < kInlineFloats * 8) return units;
        const int64_t threads = pool_.num_threads();
        const int64_t most_bytes = streams * run_.tunings[matrix.dtype].chunk_bytes;
        // As many chunks for each thread, so that none waits for another's last one.
        const int64_t each = larger(4, ceil_div(ceil_div(bytes, most_bytes), threads));
        return ceil_div(units, each * threads);
    }

    // How much longer a number takes than in an addition.
    static int64_t relative_cost(const quire_op &op) {
        switch (op.kind) {
            case QUIRE_OP_ROPE_ANGLES:
            case QUIRE_OP_ROUTE_TOKENS:
                return 16;
            case QUIRE_OP_ACTIVATE:
            case QUIRE_OP_GATED:
            case QUIRE_OP_QUANTIZE:
            case QUIRE_OP_KV_WRITE:
            case QUIRE_OP_ROPE_KV_WRITE:
            case QUIRE_OP_LATENT_WRITE:
                return 4;
            default:
                return 1;
        }
    }

    const quire_program &program_;
    const quire_step &step_;
    const Kernels &kernels_;
    ThreadPool &pool_;
    quire_tuning own_tunings_[QUIRE_NUM_DTYPES];
    Run run_ = {};
    AttentionPlan plan_;
    ExpertPlan experts_;
};

int32_t run_program(const quire_program &program, const quire_step &step) {
    const Kernels *kernels = find_kernels(program.isa);
    if (!kernels) return QUIRE_BAD_ISA;
    std::lock_guard<std::mutex> turn(program.pool->threads.lock());
    Walk walk(program, step, *kernels);
    if (const int32_t status = walk.body()) return status;
    if (!step.rows && !step.logits_out) return QUIRE_OK;
    return walk.head_and_sample();
}

}  // namespace
}  // namespace quire

int32_t quire_run(const quire_program *program, const quire_step *step) {
    try {
        return quire::run_program(*program, *step);
    } catch (const std::bad_alloc &) {
        return QUIRE_NO_MEMORY;
    }
}

int32_t quire_abi_sizes(int32_t sizes[11]) {
    sizes[0] = sizeof(quire_matrix);
    sizes[1] = sizeof(quire_tensor);
    sizes[2] = sizeof(quire_op);
    sizes[3] = sizeof(quire_program);
    sizes[4] = sizeof(quire_sample_row);
    sizes[5] = sizeof(quire_sample_result);
    sizes[6] = sizeof(quire_step);
    sizes[7] = sizeof(quire_tuning);
    sizes[8] = sizeof(quire_router);
    sizes[9] = sizeof(quire_experts);
    sizes[10] = sizeof(quire_recurrence);
    return QUIRE_ABI_VERSION;
}
