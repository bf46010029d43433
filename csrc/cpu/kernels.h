// The table of kernels that one instruction set provides.
#ifndef QUIRE_KERNELS_H
#define QUIRE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "compiler.h"
#include "quire.h"

namespace quire {

constexpr int64_t kScaledColumns = 4096;  // logits that one unit scales
constexpr int kNumOpKinds = QUIRE_OP_LATENT_VALUES + 1;

// Neighbouring tokens of one request whose queries read the same keys and values together, chunk by
// chunk; num_keys counts from the first chunk on.  partials: where in Run::partials the results of
// its chunks go, [K][chunk]; -1 where one unit walks all of them and keeps them to itself.
struct QueryTile {
    int32_t request, first_token, num_tokens;
    int32_t first_chunk, num_chunks, num_keys;
    int64_t partials;
};

// The chunks of a tile that one unit walks.
struct KeySpan {
    int32_t tile, first_chunk, num_chunks;
};

// A tile that has several spans.
struct SplitTile {
    int32_t tile;
};

// An expert's row: a token that chose it, and the place that it has among the token's choices.
struct ExpertRow {
    int32_t token, place;
};

// An expert and its rows, side by side.
struct ExpertRows {
    int32_t expert, first_row, num_rows;
};

struct Kernels;

// What an op works on: one step, the rows the op runs over, and what was prepared for all threads.
struct Run {
    const quire_program *program;
    const quire_step *step;
    const Kernels *kernels;
    int64_t num_rows;           // T in the body, the rows of the piece in the head
    const int32_t *logit_rows;  // of the piece
    const QueryTile *tiles;
    const KeySpan *spans;
    const SplitTile *split_tiles;
    const quire_tuning *tunings;
    int64_t num_spans, num_split_tiles, tile_tokens;
    float *partials;
    const ExpertRows *experts;  // that are used, ascending
    const ExpertRow *expert_rows;
    int64_t num_experts;

    QUIRE_INLINE float *row(const quire_tensor &tensor, int64_t index) const {
        return program->arena + tensor.offset + index * tensor.stride;
    }
};

// Does the units [first, last) of an op; scratch belongs to the calling thread.  A unit is a row, a
// (kv head, span) pair of attention, or a block of the output of a matrix product.
using Kernel = void (*)(const quire_op &op, const Run &run, char *scratch, int64_t first,
                        int64_t last);

// The kernels of one integer trait.  They are a table of their own, because instruction sets that
// differ only in them share all others.
struct IntegerKernels {
    int32_t tile_rows;    // most activation rows that a product takes at once
    int32_t ahead_rows;   // tiles of so many ask for 4-bit weights ahead, where nobody measured
    int32_t ahead_bytes;  // ... that stand so far ahead
    // Does units of one part of a linear op whose outputs begin at `column`.
    void (*linear_part)(const quire_op &op, const Run &run, int part, int64_t column,
                        int64_t first_unit, int64_t last_unit);
    void (*quantize_row)(const float *x, const int32_t *order, int64_t cols, float *to);
    // Multiply-adds on registers only; returns the number of operations.
    int64_t (*spin)(int64_t iterations, float *sink);
};

// The kernels that multiply bfloat16 by bfloat16; all null where an instruction set has none.
struct Bfloat16Kernels {
    void (*linear_part)(const quire_op &op, const Run &run, int part, int64_t column,
                        int64_t first_unit, int64_t last_unit);
    void (*round_row)(const float *x, const int32_t *order, int64_t cols, float *to);
    int64_t (*spin)(int64_t iterations, float *sink);
};

struct Kernels {
    IntegerKernels integers;
    Bfloat16Kernels bfloat16s;
    int32_t tile_rows;  // of products with float weights
    Kernel ops[kNumOpKinds];
    Kernel merge_attention;  // after attention; a unit is a (kv head, split tile) pair
    int64_t (*linear_units)(const quire_op &op, const Run &run);
    int64_t (*projection_units)(const quire_op &op, const Run &run);  // of latent attention
    int64_t (*convolution_units)(const quire_op &op, const Run &run);
    size_t (*scratch_bytes)(const quire_op &op, const Run &run);

    // Passes over the logits of one row; NaN counts as smaller than every number.
    float (*max_value)(const float *x, int64_t n);
    // Writes w[i] = exp((x[i] - max) / temperature) and returns the sum; w may be x.
    double (*softmax_weights)(const float *x, int64_t n, float max, float temperature, float *w);
    // The same sum at temperature 1, without writing.
    double (*softmax_sum)(const float *x, int64_t n, float max);
    // The first index >= from with x[index] > bound, or n.
    int64_t (*find_above)(const float *x, int64_t from, int64_t n, float bound);
    // Writes all indices with x[index] > bound, in order; returns how many.  Room for n is needed.
    int64_t (*find_all_above)(const float *x, int64_t n, float bound, int32_t *indices);
    // How many values are > bound, or equal to it at an index < before.
    int64_t (*count_before)(const float *x, int64_t n, float bound, int64_t before);

    // Multiply-adds on registers only; returns the number of floating-point operations.
    int64_t (*spin_fma)(int64_t iterations, float *sink);
    // Reads numbers and adds them up; returns the number of bytes.
    int64_t (*spin_read)(const float *data, int64_t n, float *sink);
};

// What quire_default_tunings writes.
void default_tunings(const Kernels &kernels, quire_tuning *tunings);

extern const Kernels kPortableKernels;
#if defined(QUIRE_WITH_AVX2)
extern const Kernels kAvx2Kernels;
#endif
#if defined(QUIRE_WITH_AVX512)
extern const Kernels kAvx512Kernels;
#endif
#if defined(QUIRE_WITH_AVX512VNNI)
extern const IntegerKernels kAvx512VnniIntegers;
#endif
#if defined(QUIRE_WITH_AVX512BF16)
extern const Bfloat16Kernels kAvx512Bfloat16s;
#endif
#if defined(QUIRE_WITH_AMX)
extern const IntegerKernels kAmxIntegers;
#endif
#if defined(QUIRE_WITH_NEON)
extern const Kernels kNeonKernels;
#endif
#if defined(QUIRE_WITH_NEON_DOTPROD)
extern const IntegerKernels kNeonDotprodIntegers;
#endif
#if defined(QUIRE_WITH_NEON_I8MM)
extern const IntegerKernels kNeonI8mmIntegers;
#endif

}  // namespace quire

#endif
