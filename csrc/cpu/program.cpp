// Walks a Program: the body over the tokens of a step, then head and sampler over its logit rows.
#include <string.h>

#include <new>
#include <vector>

#include "isa.h"
#include "packed.h"
#include "rope_angles.h"
#include "sampler.h"
#include "stopwatch.h"
#include "thread_pool.h"

namespace quire {
namespace {

constexpr int64_t kTileRows = 32;  // queries that share loaded keys, see attention.inl
constexpr int32_t kLanes = 16;     // of the widest instruction set: a block holds whole vectors
constexpr int64_t kInlineFloats = 16384;  // less work than that is not worth a second thread
constexpr int64_t kWeightBytesPerChunk = 64 * 1024;

class Walk {
  public:
    Walk(const quire_program &program, const quire_step &step, const Kernels &kernels)
        : program_(program), step_(step), kernels_(kernels), pool_(program.pool->threads) {
        run_.program = &program;
        run_.step = &step;
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
        const Kernel kernel = op.kind == QUIRE_OP_ROPE_ANGLES ? rope_angles : kernels_.ops[op.kind];
        if (op.kind == QUIRE_OP_EMBEDDING && !tokens_fit(op.parts[0].rows)) return QUIRE_BAD_TOKEN;
        if (op.kind == QUIRE_OP_ATTENTION) {
            if (program_.block_tokens % kLanes) return QUIRE_BAD_OP;
            cut_tiles(op);
        }
        if (!pool_.reserve_scratch(kernels_.scratch_bytes(op, run_))) return QUIRE_NO_MEMORY;
        int64_t units, grain;
        plan_units(op, &units, &grain);
        pool_.parallel_for(units, grain, [&](int thread, int64_t first, int64_t last) {
            kernel(op, run_, pool_.scratch(thread), first, last);
        });
        return QUIRE_OK;
    }

    bool tokens_fit(int64_t num_embeddings) const {
        for (int32_t t = 0; t < step_.num_tokens; t++) {
            if (step_.token_ids[t] < 0 || step_.token_ids[t] >= num_embeddings) return false;
        }
        return true;
    }

    // Cuts the tokens of each request into tiles for attention.
    void cut_tiles(const quire_op &op) {
        const int32_t group = op.heads / op.kv_heads;
        const int32_t size = group < kTileRows ? int32_t(kTileRows / group) : 1;
        if (run_.tile_tokens != size) {
            tiles_.clear();
            for (int32_t r = 0; r < step_.num_requests; r++) {
                const int32_t end = step_.query_start[r + 1];
                for (int32_t t = step_.query_start[r]; t < end; t += size) {
                    tiles_.push_back({r, t, end - t < size ? end - t : size});
                }
            }
        }
        run_.tiles = tiles_.data();
        run_.num_tiles = int64_t(tiles_.size());
        run_.tile_tokens = size;
    }

    // How many units an op has and how many a thread takes at once.
    void plan_units(const quire_op &op, int64_t *units, int64_t *grain) const {
        const int64_t threads = pool_.num_threads();
        if (op.kind == QUIRE_OP_LINEAR) {
            *units = kernels_.linear_units(op, run_);
            int64_t bytes = 0;
            for (int i = 0; i < op.num_parts; i++) {
                bytes += matrix_bytes(op.parts[i]);
            }
            const int64_t per_unit = 1 + bytes / (*units ? *units : 1);
            *grain = kWeightBytesPerChunk / per_unit;
            if (*grain > *units / (4 * threads)) *grain = *units / (4 * threads);
            if (bytes * run_.num_rows < kInlineFloats * 8) *grain = *units;
        } else if (op.kind == QUIRE_OP_ATTENTION) {
            *units = run_.num_tiles * op.kv_heads;
            *grain = attention_floats(op) < kInlineFloats * 4 ? *units : 1;
        } else {
            *units = run_.num_rows;
            const int64_t cols = op.out[0].cols > op.in[0].cols ? op.out[0].cols : op.in[0].cols;
            *grain = kInlineFloats / (cols * relative_cost(op) + 1);
        }
    }

    // How much longer a number takes than in an addition.
    static int64_t relative_cost(const quire_op &op) {
        switch (op.kind) {
            case QUIRE_OP_ROPE_ANGLES:
                return 16;
            case QUIRE_OP_GATED:
            case QUIRE_OP_QUANTIZE:
            case QUIRE_OP_KV_WRITE:
            case QUIRE_OP_ROPE_KV_WRITE:
                return 4;
            default:
                return 1;
        }
    }

    // About how many keys and values one thread would read and use.
    int64_t attention_floats(const quire_op &op) const {
        int64_t positions = 0;
        for (int64_t i = 0; i < run_.num_tiles; i++) {
            const QueryTile &tile = run_.tiles[i];
            const int64_t context = step_.positions[tile.first_token + tile.num_tokens - 1] + 1;
            positions += context * tile.num_tokens;
        }
        return positions * op.heads * op.head_dim;
    }

    const quire_program &program_;
    const quire_step &step_;
    const Kernels &kernels_;
    ThreadPool &pool_;
    Run run_ = {};
    std::vector<QueryTile> tiles_;
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

int32_t quire_abi_sizes(int32_t sizes[7]) {
    sizes[0] = sizeof(quire_matrix);
    sizes[1] = sizeof(quire_tensor);
    sizes[2] = sizeof(quire_op);
    sizes[3] = sizeof(quire_program);
    sizes[4] = sizeof(quire_sample_row);
    sizes[5] = sizeof(quire_sample_result);
    sizes[6] = sizeof(quire_step);
    return QUIRE_ABI_VERSION;
}
