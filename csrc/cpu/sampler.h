// Turns rows of logits into tokens; quire.h says how.
#ifndef QUIRE_SAMPLER_H
#define QUIRE_SAMPLER_H

#include "kernels.h"
#include "thread_pool.h"

namespace quire {

// Each row on one thread; the logits are overwritten.  Returns a quire_status.
int32_t sample_rows(ThreadPool &pool, const Kernels &kernels, float *logits, int64_t stride,
                    int32_t vocab_size, int32_t num_rows, const quire_sample_row *rows,
                    quire_sample_result *results);

// Applies masks, bias and penalties to one row.  scratch: vocab_size numbers.
void adjust_logits(const quire_sample_row &row, int32_t vocab_size, float *logits, void *scratch);

// One token that may be drawn.
struct Candidate {
    float logit, weight;
    int32_t id;
};

inline bool more_likely(const Candidate &a, const Candidate &b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The sum of their weights, in a fixed order.
double sum_weights(const Candidate *candidates, int64_t count);

// Keeps the most likely candidates: top_k of them (0: all), and of these the fewest whose weights
// sum to >= top_p of theirs, or of `total` when top_k is 0.  Keeps the order.  Returns how many
// stay.
// highest: the largest logit.
int64_t keep_most_likely(Candidate *candidates, int64_t count, float highest, int64_t top_k,
                         float top_p, double total);

}  // namespace quire

#endif
