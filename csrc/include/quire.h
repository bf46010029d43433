/* The whole C ABI of the native backend: plain structs in, plain arrays out, nothing global.
 *
 * Python (quire/backends/native/library.py) mirrors every struct field by field; quire_abi_sizes()
 * lets it check that both sides agree.  All memory is owned by the caller: weights (usually a
 * memory map of the checkpoint), the activation arena, the KV arena, every step array.  Only the
 * thread pool is created and destroyed here.
 *
 * Notation: T tokens in the step, R requests, S rows whose logits are wanted, H query heads, K
 * key/value heads, D head size, E model width, V vocabulary size, B tokens per KV block.
 *
 * Batch invariance.  The value of every output element depends only on its own row's inputs, its
 * position and the instruction set: never on T, R, S, on the thread count, or on the rows beside
 * it.  Each matrix kernel sums over columns in one order for every number of rows; attention walks
 * keys in chunks whose borders are fixed multiples of absolute positions and merges them in order.
 */
#ifndef QUIRE_H
#define QUIRE_H

#include <stdint.h>

#if defined(_WIN32)
#define QUIRE_API __declspec(dllexport)
#else
#define QUIRE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define QUIRE_ABI_VERSION 12
#define QUIRE_MAX_PARTS 4

enum quire_dtype {
    QUIRE_F32 = 0,
    QUIRE_F16 = 1,
    QUIRE_BF16 = 2,
    QUIRE_INT4 = 3,
    QUIRE_INT8 = 4,
    QUIRE_TABLE4 = 5, /* 4-bit codes that stand for the 16 numbers of a table */
    QUIRE_FLOAT8 = 6, /* e4m3: 4 bits of exponent, 3 of fraction; no infinities, NaN is not known */
    QUIRE_NUM_DTYPES = 7
};
enum quire_kv_dtype {
    QUIRE_KV_F32 = 0,
    QUIRE_KV_F16 = 1,
    QUIRE_KV_BF16 = 2,
    QUIRE_KV_INT8 = 3,
    QUIRE_KV_FLOAT8 = 4,
    QUIRE_KV_INT4 = 5
};
enum quire_isa {
    QUIRE_PORTABLE = 0,
    QUIRE_AVX2 = 1,
    QUIRE_AVX512 = 2,
    QUIRE_AVX512VNNI = 3,
    QUIRE_AVX512BF16 = 4, /* VNNI as well */
    QUIRE_NEON = 5,
    QUIRE_NEON_DOTPROD = 6,
    QUIRE_NEON_I8MM = 7,
    QUIRE_AMX = 8 /* never the best one: no machine has run it yet */
};
enum quire_status {
    QUIRE_OK = 0,
    QUIRE_BAD_OP = 1,
    QUIRE_BAD_ISA = 2,
    QUIRE_NO_MEMORY = 3,
    QUIRE_BAD_TOKEN =
        4 /* a token id or position outside the embedding table; nothing was read there */
};

/* Every activation is float32, unless an op quantizes it: to QUIRE_INT8, where a row stands as
 * csrc/cpu/packed.h says, in 12 floats per block of 32 columns; or to QUIRE_BF16. */
enum quire_op_kind {
    QUIRE_OP_EMBEDDING = 0, /* out0[t] = parts[0] row i * scale; index: whether i is token_ids[t],
                                  positions[t] + index_offset, or 0.  A token id -1 - i is row i
                                  of given_rows as it is, and so is row t with QUIRE_GIVEN_ROW,
                                  which needs no table but its cols */
    QUIRE_OP_NORM = 1,      /* out0 = in0 / sqrt(mean(in0^2) + eps) * vectors[0] + vectors[1], over
                                  each of `heads` equal segments of the row (1: the whole row; the
                                  vectors have one segment's length and serve every segment, but
                                  with kv_heads = heads vectors[0] has the row's length;
                                  vectors[1] may be NULL).  QUIRE_LAYER: of in0 - mean(in0) */
    QUIRE_OP_ADD_NORM = 2,  /* out1 = add(in0, in1); out0 = norm(out1) of the whole row */
    QUIRE_OP_ADD = 3,       /* out0 = in0 * scale + in1; where vectors[2] is not NULL, the norm of
                                  in0 with vectors[2] and vectors[3] takes its place */
    QUIRE_OP_LINEAR = 4,    /* out0 = concatenation over parts of in0 @ parts[i]^T + vectors[i]
                                  (vectors[i] may be NULL: no bias); in0 is in row_dtype, which is what
                                  quire_row_dtype says of every part, or float32 for floats */
    QUIRE_OP_ROPE_ANGLES = 5, /* out0[t] = [cos(a) * f | sin(a) * f], a = positions[t] * the first
                                  D/2 numbers of row rope_rows[t] of vectors[0] [any, D/2 + 1], f
                                  the last; the product in float32, sine and cosine accurate to
                                  float32.  order [D/2], unless NULL: which of the three
                                  axis_positions of t each number is multiplied by */
    QUIRE_OP_ROPE = 6,     /* out0 = in0 with the first rope_dims of each of `heads` heads rotated
                              by the angles in1; pairs (i, i + rope_dims/2) when pairing is 0,
                              (2i, 2i+1) when 1; the rest of the head is copied */
    QUIRE_OP_KV_WRITE = 7, /* stores keys in0 and values in1 [T, K*D] at the tokens' positions */
    QUIRE_OP_ROPE_KV_WRITE = 8, /* out0 = rope(in0, `heads` heads); kv_write(rope(in1, `kv_heads`
                                   heads), in2); in3 holds the angles */
    QUIRE_OP_ATTENTION = 9,    /* out0[t] = softmax(scale * in0[t] . keys) values over the request's
                                 positions max(0, p - window + 1) .. p, p = positions[t]; window 0:
                                 all; or, with a chunk, over p - p % chunk .. p; or, with
                                 bidirectional, 0 .. the request's last position in this step.  Query head h reads
                                 kv head h / (heads / kv_heads).  vectors[0], unless NULL: for each
                                 head a score beside the others that has no value.  vectors[1],
                                 unless NULL: for each head what a score loses per position between
                                 query and key.  cap c > 0: before that a score s becomes
                                 c tanh(s / c).  query_rule: what scale is multiplied by. */
    QUIRE_OP_GATED = 10,       /* out0 = activation(in0) * in1 */
    QUIRE_OP_SELECT_ROWS = 11, /* out0[s] = in0[logit_rows[s]] */
    QUIRE_OP_QUANTIZE = 12,    /* out0 = in0 in row_dtype: int8 with a scale for each block of 32
                                  columns, or bfloat16 */
    QUIRE_OP_ACTIVATE = 13,    /* out0 = activation(in0) */
    QUIRE_OP_SCALE_LOGITS = 14, /* out0 = in0 * scale; with cap c > 0, c * tanh(that / c); in0
                                   and out0 may be the same */
    QUIRE_OP_ROUTE_TOKENS = 15, /* out0[t] = the ids of the top_k experts that `router` chooses from
                                   logits in0[t], ascending, as floats, and then their weights */
    QUIRE_OP_EXPERTS =
        16, /* out0[t] = sum over the experts e of token t, in the order of in1[t], of
                              weight * (down_e @ activation(gate_e @ in0[t], up_e @ in0[t])); in1 is
                              what route_tokens wrote.  in0 is in row_dtype, as in linear.  out1 is
                              room to work in, without gaps: top_k rows of the hidden width for
                              each token, in hidden_dtype, of whole blocks of 32 */
    QUIRE_OP_GATE_ROWS = 17,   /* out0 = in0 * sigmoid(in1), where in1 has one number a row */
    QUIRE_OP_CONVOLUTION = 18, /* out0[t] = silu(vectors[1] + sum over j < taps of vectors[0][j] *
                                  in0[t - taps + 1 + j]), by channel; vectors[0] is [taps][cols],
                                  vectors[1] [cols] or NULL; before a request's tokens stands its
                                  state, [taps - 1][cols], at recurrence->state */
    QUIRE_OP_RECURRENCE =
        19, /* out0[t], [heads * value_dim]: what `recurrence` says, in0 being rows
                                of queries, keys and values, in1 and in2 one number for each head */

    /* Latent attention: a token's cache is one row [C + P], C = head_dim and P = rope_dims, which is
     * the key of every head; its first C numbers are the value.  parts[0] is [H * (N + V), C]: for
     * each head the N rows that make keys of latents, then the V rows that make values.  In a packed
     * format it is [H * C, N] for queries, each head's key rows turned, and [H * V, C] for values; C and V
     * are then multiples of 16, and each head's input is rounded as QUANTIZE does it. */
    QUIRE_OP_LATENT_WRITE = 40,     /* stores in0 [T, C] and rope(in1 [T, P]); in2: the angles */
    QUIRE_OP_LATENT_QUERIES = 41,   /* of each head of in0 [T, H * (N + P)]: out0 [T, H * (C + P)]
                                       is the N times its key rows, and rope(the P); in1: angles */
    QUIRE_OP_LATENT_ATTENTION = 42, /* out0 [T, H * C] = softmax(scale * in0[t] . rows) latents,
                                       over positions 0 .. positions[t]; kv_heads: parts that the
                                       heads are cut into, which share the work and no more;
                                       query_rule as of ATTENTION */
    QUIRE_OP_LATENT_VALUES = 43     /* of each head: out0 [T, H * V] = in0 [T, H * C] times its
                                       value rows */
};

/* What the scale of a query at position p is multiplied by: with LOG max(1, log(p + 1) / log(length)),
 * with STEPS 1 + factor * log(1 + floor((p + offset) / length)), the fields query_*. */
enum quire_query_rule { QUIRE_QUERY_PLAIN = 0, QUIRE_QUERY_LOG = 1, QUIRE_QUERY_STEPS = 2 };

enum quire_activation {
    QUIRE_SILU = 0,
    QUIRE_GELU = 1, /* with erf */
    QUIRE_GELU_TANH = 2,
    QUIRE_QUICK_GELU = 3, /* x * sigmoid(1.702 x) */
    QUIRE_RELU = 4,
    QUIRE_RELU_SQUARED = 5,
    QUIRE_TANH = 6,
    QUIRE_LOGISTIC = 7,      /* 1 / (1 + exp(-x)) */
    QUIRE_CLAMPED_SWIGLU = 8 /* of gated only: g * sigmoid(scale * g) * (u + 1), where g is the gate
                                of at most `cap`, and u is in1 between -cap and cap */
};
enum quire_index {
    QUIRE_BY_TOKEN = 0,
    QUIRE_BY_POSITION = 1,
    QUIRE_FIRST_ROW = 2,
    QUIRE_GIVEN_ROW = 3
};
enum quire_norm { QUIRE_RMS = 0, QUIRE_LAYER = 1 };

/* How logits become scores.  Sparsemixer is Phi-3.5-MoE's rule for two experts. */
enum quire_scoring { QUIRE_SOFTMAX = 0, QUIRE_SIGMOID = 1, QUIRE_SPARSEMIXER = 2 };
enum quire_group_score { QUIRE_GROUP_MAX = 0, QUIRE_GROUP_TOP2_SUM = 1 };

#define QUIRE_MAX_TOP_K 64

/* A matrix [rows, cols] of weights, at least 4-byte aligned: row-major in a float format, packed in
 * panels (csrc/cpu/packed.h) in an integer one.  group_size: columns that share a scale, 16 or a
 * multiple of 32.  All weights are times 2^exponent.  table: of QUIRE_TABLE4.
 * QUIRE_FLOAT8 is row-major, filled up to a multiple of 4 bytes; float32 scales [rows, groups] of
 * group_size columns follow, the last of which may be short. */
typedef struct {
    const void *data;
    int64_t rows, cols;
    int32_t dtype;
    int32_t group_size, has_zero_points, has_minimums, exponent;
    int8_t table[16];
} quire_matrix;

/* A column range of a buffer in the activation arena: row r starts `offset + r * stride` floats in.
 */
typedef struct {
    int64_t offset;
    int32_t stride, cols;
} quire_tensor;

/* How experts are chosen: those with the highest ranking, the lowest id among equals.  A ranking is
 * the score plus the expert's bias; without bias and groups the logit, which orders them alike.  With
 * several groups of num_experts / num_groups neighbours, only the top_groups best groups are looked
 * at; a group is as good as its best ranking, or as the sum of its best two.  An expert's weight is its
 * score; with `normalises` divided by the larger of least_sum and the sum of those chosen; times
 * `scale`.  top_k is at most QUIRE_MAX_TOP_K and at most what the chosen groups hold.
 * Sparsemixer takes the best logit, and weighs it by a softmax over the logits that are nearer to it
 * than 2 * jitter of its size, then the same among all others for the second. */
typedef struct {
    const float *bias; /* [num_experts], or NULL */
    int32_t num_experts, top_k, scoring, normalises;
    int32_t num_groups, top_groups, group_score, reserved;
    float scale, least_sum, jitter, reserved_float;
} quire_router;

/* The experts of a layer.  Matrices that stand in the same place of two experts have the same shape;
 * their formats may differ, but not what quire_row_dtype says of them. */
typedef struct {
    const quire_matrix *matrices; /* [num_experts][3]: gate, up, down */
    const float *const *biases;   /* in the same order; entries may be NULL, and so may this */
    int64_t *usage;               /* [num_experts], or NULL; the tokens each one met are added */
    int32_t num_experts, top_k;
    int32_t hidden_dtype;  /* of the rows that meet `down` */
    int32_t scales_inputs; /* the weight multiplies what gate and up give, not what down gives */
    int32_t first;         /* the id of the first; those of others add nothing here */
    int32_t num_routed;    /* ids are below it */
} quire_experts;

/* Heads with a state S, [key_dim][value_dim], side by side at float `state` of a request's record.
 * Head h reads the queries and keys of key head h / (heads / key_heads).  softplus(x) is
 * log(1 + exp(x)).
 * QUIRE_DELTA_RULE: in0 holds [queries | keys | values]; k and q are divided by their length
 * sqrt(sum of squares + 1e-6), q by sqrt(key_dim) as well.  S *= exp(-exp(decay_log) * softplus(in2 +
 * time_bias)), S += k (sigmoid(in1) * (v - S^T k))^T, out = S^T q.
 * QUIRE_SELECTIVE_SCAN: in0 holds [values | keys | queries]; dt = softplus(in1 + time_bias) within
 * least_step .. most_step.  S *= exp(-exp(decay_log) * dt), S += k (dt v)^T, out = S^T q + skip v. */
enum quire_recurrence_kind { QUIRE_DELTA_RULE = 0, QUIRE_SELECTIVE_SCAN = 1 };

typedef struct {
    int64_t state;
    const float *decay_log, *time_bias, *skip; /* [heads] */
    int32_t kind, heads, key_heads, key_dim, value_dim;
    int32_t taps; /* of convolution, at most 8; it reads no other field but state */
    float least_step, most_step;
} quire_recurrence;

/* One op of a Program.  Fields an op does not name are zero; a scale of 0 means 1, except in
 * attention and rope_angles. */
typedef struct {
    int32_t kind, layer;
    quire_tensor in[4], out[2];
    quire_matrix parts[QUIRE_MAX_PARTS];
    const float *vectors[QUIRE_MAX_PARTS];
    const int32_t *order; /* of quantize and where out0 is quantized: which column of the plain row
                             is the j-th of the rounded one; of embedding: which column the table's
                             j-th is; NULL: the j-th; of rope_angles: which axis */
    int32_t num_parts, heads, kv_heads, head_dim;
    int32_t rope_dims, pairing, window, activation;
    float eps, scale;
    /* row_dtype: of in0 of linear and experts; of out0 of quantize, norm, add_norm, activate, gated */
    int32_t row_dtype;
    int32_t chunk, query_rule, query_length, query_offset; /* of attention */
    float query_factor, cap;
    int32_t norm, bidirectional;
    int32_t index, index_offset; /* of embedding */
    int32_t reserved;
    const quire_router *router;
    const quire_experts *experts;
    const quire_recurrence *recurrence;
} quire_op;

typedef struct quire_pool quire_pool;

/* How products with matrices of one dtype are cut into pieces of work, and what they ask for before
 * they need it.  No field changes the order of a sum: every tuning gives the same bits. */
typedef struct {
    int32_t tile_rows;   /* most activation rows that share each weight while it is in a register;
                            more than the kernel has room for count as so many */
    int32_t ahead_rows;  /* tiles of so many rows or more ask the memory for the weights behind the
                            ones in hand */
    int32_t ahead_bytes; /* ... that stand so far behind */
    int32_t block_bytes; /* of activation rows that meet a block of weights before the next block
                            does: half of a second-level cache */
    int32_t chunk_bytes; /* of weights that a thread takes at once */
} quire_tuning;

/* A Program bound to its memory.
 *
 * The body runs once a step over T rows; the head (select_rows first) and the sampler run over the
 * logit rows in pieces of at most max_logit_rows.  `logits` is where the head leaves [rows, V].
 *
 * KV arena: layer l, block b starts kv_layer_offset[l] + b * kv_block_bytes[l] bytes in, a multiple
 * of 4; there stand the keys as [K][D][B] and then the values as [K][B][D], in kv_dtype.  B is 16,
 * 32 or 48.  QUIRE_KV_INT8 stores codes -127 .. 127: keys as [K][D / 2][B][2] (D rounded up to even,
 * the last code of an odd D is 0), values as [K][B][D], then float32 scales of the keys [K][B] and of
 * the values [K][B].  A vector x is stored as codes round(x / a * 127), a = max |x|, and scale
 * a / 127; a vector that is not finite as codes 0 and scale NaN, so that all who see it become NaN.
 * A layer of latent attention has rows [B][C + P] instead, and in QUIRE_KV_INT8 behind them the
 * scales of the latents [B] and of the other P numbers [B].
 * QUIRE_KV_FLOAT8 stores e4m3 floats of x / a * 448 as the floats above, then scales a / 448 as
 * QUIRE_KV_INT8 does.  QUIRE_KV_INT4 stores codes 0 .. 15, two in a byte, the first in its low half:
 * keys as [K][D / 2][B], values as [K][B][D / 2], then scales as above, then minimums in the same
 * order; a vector x is code * scale + minimum, minimum = min x, scale = (max x - minimum) / 15.
 *
 * Records of recurrent layers: record i starts at states + i * state_floats.
 *
 * arena and kv work at any address that is a multiple of 4; on a cache line they are faster.
 */
typedef struct {
    const quire_op *body, *head;
    int32_t num_body, num_head;
    float *arena;
    uint8_t *kv;
    const int64_t *kv_layer_offset, *kv_block_bytes;
    int32_t kv_dtype, block_tokens;
    int32_t max_logit_rows, vocab_size;
    quire_tensor logits;
    quire_pool *pool;
    int32_t isa, reserved;
    const quire_tuning
        *tunings; /* one for each quire_dtype; NULL: those of quire_default_tunings */
    float *states;
    int64_t state_floats;
} quire_program;

/* What one logit row wants from the sampler.
 *
 * Order of work: bitmask, allowed, forbidden, bad_words and bias; repetition penalty (tokens of
 * prompt and output: l > 0 ? l / p : l * p), frequency and presence penalty (output tokens only);
 * then temperature 0 takes the arg max (lowest id among equals); else divide by temperature, drop
 * tokens with probability < min_p * the highest, keep the top_k most likely (0: all; ties with the
 * k-th are kept lowest id first, exactly k stay), keep the smallest set of most likely tokens whose
 * probabilities sum to >= top_p of what the filters before left (ties: lowest id first), and draw
 * by inverse CDF in id order with u = philox4x32-10(key = seed, counter = output_index) -> 24 bits
 * / 2^24.  quire/sampling/reference.py is the same in numpy.  Token ids outside 0 .. V-1 are
 * ignored.
 * bad_words: flat list, each word as its length n and then n ids; when the output ends with the
 * first n - 1 ids, the last one is forbidden.
 * If target >= 0 nothing is drawn: the row reports on token `target` (prompt logprobs).
 * Log-probabilities are log softmax of the logits as the model gave them, before all of the above.
 * num_logprobs < 0: none; else the log-probability and rank of the token and the num_logprobs best
 * (highest first, ties lowest id first) are written to top_ids and top_logprobs of the result; -1
 * and minus infinity where the row has fewer numbers.  A rank is 1 + the number of tokens before it
 * in this order.
 */
typedef struct {
    uint64_t seed;
    int64_t output_index;
    const int32_t *prompt, *output, *bias_ids;
    const float *bias;
    const int32_t *allowed, *forbidden, *bad_words;
    const uint32_t *bitmask; /* ceil(V / 32) words, bit set: may be chosen; NULL: all may */
    int32_t num_prompt, num_output, num_bias, num_allowed, num_forbidden, num_bad_words;
    int32_t top_k, num_logprobs, target, reserved;
    float temperature, top_p, min_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
} quire_sample_row;

/* token is -1 when the row's logits hold no number to choose from (NaN, or everything forbidden),
 * or when target is no token.  rank and logprob are 0 when not asked for. */
typedef struct {
    int32_t *top_ids;
    float *top_logprobs;
    int32_t token, rank;
    float logprob;
    int32_t reserved;
} quire_sample_result;

/* Which records of recurrent state a request's tokens of a step follow on (read; -1: none, zeros)
 * and leave (write; it may be the one that is read).  With mark > 0 the first `mark` of them leave the
 * record `kept` as well. */
typedef struct {
    int32_t read, write, mark, kept;
} quire_state_use;

/* One step.  Tokens of a request are consecutive; request r owns tokens query_start[r] up to
 * query_start[r + 1] and its block table is row r.  logit_rows are ascending token indices.
 * rows and results have S entries, or are NULL: then nothing is sampled, and without logits_out the
 * step runs the body only. */
typedef struct {
    int32_t num_tokens, num_requests, num_logit_rows, block_table_stride;
    const int32_t *token_ids, *positions, *rope_rows, *query_start, *block_tables, *logit_rows;
    const quire_sample_row *rows;
    quire_sample_result *results;
    float *logits_out;       /* [S, V], or NULL; a copy of the logits as the model gave them */
    int64_t *op_nanoseconds; /* [num_body + num_head + 1], or NULL; the time of each op of body and
                                head, and of the sampler, is added to it */
    const quire_state_use *state_uses; /* [R], for Programs with recurrent layers */
    const int32_t *axis_positions;     /* [T, 3], or NULL: positions[t] on every axis */
    const float *given_rows;           /* [num_given_rows, any] without gaps: see quire_op_kind */
    int32_t num_given_rows, reserved;
} quire_step;

/* Writes sizeof of quire_matrix, quire_tensor, quire_op, quire_program, quire_sample_row,
 * quire_sample_result, quire_step, quire_tuning, quire_router, quire_experts, quire_recurrence; returns
 * QUIRE_ABI_VERSION. */
QUIRE_API int32_t quire_abi_sizes(int32_t sizes[11]);

/* Whether this build, this CPU and this operating system can run an instruction set: 1 or 0. */
QUIRE_API int32_t quire_can_run(int32_t isa);

/* The one of them to choose. */
QUIRE_API int32_t quire_best_isa(void);

/* What is right nearly everywhere, for an instruction set that can run; returns a quire_status. */
QUIRE_API int32_t quire_default_tunings(int32_t isa, quire_tuning tunings[QUIRE_NUM_DTYPES]);

/* A pool of num_threads threads in all: the caller of quire_run is one of them.  NULL: no memory.
 */
QUIRE_API quire_pool *quire_pool_create(int32_t num_threads);
QUIRE_API void quire_pool_destroy(quire_pool *pool);

/* Runs one step; returns a quire_status. */
QUIRE_API int32_t quire_run(const quire_program *program, const quire_step *step);

/* The draw's u for one output: see quire_sample_row. */
QUIRE_API double quire_uniform(uint64_t seed, int64_t output_index);

/* Samples num_rows rows of logits [num_rows, vocab_size] in place (they are overwritten). */
QUIRE_API int32_t quire_sample(quire_pool *pool, int32_t isa, float *logits, int64_t stride,
                               int32_t vocab_size, int32_t num_rows, const quire_sample_row *rows,
                               quire_sample_result *results);

/* Quantizes a float matrix to the nearest codes and packs them: symmetric, the
 * scale of a group is its number of largest magnitude / -8 in 4 bits, its largest magnitude / 127
 * in 8.  `to` says the format, where the packed matrix stands, and its rows and columns, which are
 * those of `from`.  A number that is not finite makes its group's scale NaN. */
QUIRE_API int32_t quire_pack(quire_pool *pool, const quire_matrix *from, const quire_matrix *to);

/* The dtype of activations that an instruction set multiplies with weights of a dtype. */
QUIRE_API int32_t quire_row_dtype(int32_t isa, int32_t weights);

/* The size of a matrix; 0 for a format that does not exist. */
QUIRE_API int64_t quire_matrix_bytes(const quire_matrix *matrix);

/* For measurements; the caller takes the time.  Each runs on all threads of the pool: reading count
 * floats (returns the bytes read), multiply-adds on registers (returns the floating-point
 * operations done), the same in 8-bit integers and in bfloat16
 * (0: this instruction set has no products of them), and empty parallel jobs (returns their number). */
QUIRE_API int64_t quire_measure_read(quire_pool *pool, int32_t isa, const float *data,
                                     int64_t count);
QUIRE_API int64_t quire_measure_fma(quire_pool *pool, int32_t isa, int64_t iterations);
QUIRE_API int64_t quire_measure_int8(quire_pool *pool, int32_t isa, int64_t iterations);
QUIRE_API int64_t quire_measure_bfloat16(quire_pool *pool, int32_t isa, int64_t iterations);
QUIRE_API int64_t quire_measure_barriers(quire_pool *pool, int64_t count);

#ifdef __cplusplus
}
#endif
#endif
