#include "sampler.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <new>

#include "isa.h"
#include "philox.h"

namespace quire {
namespace {

constexpr int64_t kBlock = 1024;       // weights that are summed together when drawing from all
constexpr int32_t kMostInHeap = 1024;  // a larger top-k goes through buckets

// The memory of one thread: room for one vocabulary of each.
struct Scratch {
    float *raw;      // the logits as the model gave them
    float *weights;  // before there are any: token counts and saved logits
    Candidate *candidates;
    int32_t *ids;

    static size_t bytes(int64_t vocab_size) {
        return (vocab_size + 1) * (2 * sizeof(float) + sizeof(Candidate) + sizeof(int32_t));
    }
    Scratch(char *memory, int64_t vocab_size)
        : raw(reinterpret_cast<float *>(memory)),
          weights(raw + vocab_size),
          candidates(reinterpret_cast<Candidate *>(weights + vocab_size)),
          ids(reinterpret_cast<int32_t *>(candidates + vocab_size + 1)) {}
};

// Chooses the token of one row and reports on it.
class Sampler {
  public:
    Sampler(const Kernels &kernels, const quire_sample_row &row, float *logits, int64_t vocab_size,
            char *memory)
        : kernels_(kernels),
          row_(row),
          logits_(logits),
          size_(vocab_size),
          scratch_(memory, vocab_size) {}

    void run(quire_sample_result *result) {
        const bool report = row_.num_logprobs >= 0;
        const float *raw = logits_;
        if (row_.target >= 0) {
            result->token = row_.target < size_ ? row_.target : -1;
        } else {
            if (report) {
                memcpy(scratch_.raw, logits_, sizeof(float) * size_);
                raw = scratch_.raw;
            }
            adjust_logits(row_, int32_t(size_), logits_, scratch_.weights);
            result->token = choose();
        }
        result->rank = 0;
        result->logprob = 0.0f;
        if (report) describe(raw, result);
    }

  private:
    int32_t choose() {
        max_ = kernels_.max_value(logits_, size_);
        if (max_ == -INFINITY) return -1;
        if (row_.temperature == 0.0f) {
            return int32_t(kernels_.find_above(logits_, 0, size_, nextafterf(max_, -INFINITY)));
        }
        const bool limited = row_.top_k > 0 && row_.top_k < size_;
        if (limited && row_.top_k <= kMostInHeap) return draw_candidates(keep_in_heap());
        if (limited || row_.top_p < 1.0f || row_.min_p > 0.0f) {
            return draw_candidates(keep_in_buckets(limited ? row_.top_k : 0));
        }
        return draw_from_all();
    }

    double random() const { return uniform(row_.seed, uint64_t(row_.output_index)); }

    // Every token has its weight: find the block by the sums of blocks, then the token.
    int32_t draw_from_all() {
        float *weights = scratch_.weights;
        double *sums = reinterpret_cast<double *>(scratch_.candidates);
        const int64_t num_blocks = (size_ + kBlock - 1) / kBlock;
        double total = 0.0;
        for (int64_t block = 0; block < num_blocks; block++) {
            const int64_t first = block * kBlock, n = std::min(kBlock, size_ - first);
            sums[block] = kernels_.softmax_weights(logits_ + first, n, max_, row_.temperature,
                                                   weights + first);
            total += sums[block];
        }
        const double target = random() * total;
        double sum = 0.0;
        int64_t block = 0;
        while (block + 1 < num_blocks && sum + sums[block] <= target) sum += sums[block++];
        int64_t last = -1;
        for (int64_t i = block * kBlock; i < size_ && sum <= target; i++) {
            if (weights[i] <= 0.0f) continue;
            sum += weights[i];
            last = i;
        }
        if (last < 0) {  // sums of blocks and of tokens round differently
            last = block * kBlock - 1;
            while (weights[last] <= 0.0f) last--;
        }
        return int32_t(last);
    }

    int32_t draw_candidates(int64_t count) {
        const Candidate *candidates = scratch_.candidates;
        const double target = random() * sum_weights(candidates, count);
        double sum = 0.0;
        int32_t last = -1;
        for (int64_t i = 0; i < count && sum <= target; i++) {
            if (candidates[i].weight <= 0.0f) continue;
            sum += candidates[i].weight;
            last = candidates[i].id;
        }
        return last;
    }

    // A small top-k, then min-p and top-p on the sorted few.  Leaves the candidates in order of
    // ids.
    int64_t keep_in_heap() {
        Candidate *candidates = scratch_.candidates;
        int64_t count = find_best(logits_, row_.top_k);
        float *weights = scratch_.weights;
        for (int64_t i = 0; i < count; i++) weights[i] = candidates[i].logit;
        kernels_.softmax_weights(weights, count, max_, row_.temperature, weights);
        for (int64_t i = 0; i < count; i++) candidates[i].weight = weights[i];
        while (count > 1 && candidates[count - 1].weight < row_.min_p) count--;
        if (row_.top_p < 1.0f) {
            const double enough = row_.top_p * sum_weights(candidates, count);
            double sum = 0.0;
            int64_t kept = 0;
            do {
                sum += candidates[kept++].weight;
            } while (kept < count && sum < enough);
            count = kept;
        }
        std::sort(candidates, candidates + count,
                  [](const Candidate &a, const Candidate &b) { return a.id < b.id; });
        return count;
    }

    // Any min-p, top-k and top-p.  Leaves the candidates in order of ids.
    int64_t keep_in_buckets(int64_t top_k) {
        const double all =
            kernels_.softmax_weights(logits_, size_, max_, row_.temperature, scratch_.weights);
        double total = all;
        int64_t count;
        if (row_.min_p > 0.0f) {
            count = gather(nextafterf(row_.min_p, 0.0f));
            total = sum_weights(scratch_.candidates, count);
        } else if (top_k > 0) {
            count = gather(0.0f);
        } else {
            // Together, all weights below this bound are less than what top-p leaves out.
            count = gather(float((1.0 - row_.top_p) * all / double(size_)));
            if (sum_weights(scratch_.candidates, count) < row_.top_p * all) count = gather(0.0f);
        }
        return keep_most_likely(scratch_.candidates, count, max_, top_k, row_.top_p, total);
    }

    // Makes candidates of the tokens whose weight is above a bound, in order of ids.
    int64_t gather(float bound) {
        const float *weights = scratch_.weights;
        const int64_t count = kernels_.find_all_above(weights, size_, bound, scratch_.ids);
        for (int64_t i = 0; i < count; i++) {
            const int32_t id = scratch_.ids[i];
            scratch_.candidates[i] = {logits_[id], weights[id], id};
        }
        return count;
    }

    // The n highest of x as candidates, most likely first; the heap has the least likely on top.
    int64_t find_best(const float *x, int64_t n) {
        Candidate *heap = scratch_.candidates;
        int64_t count = 0, i = 0;
        for (; i < size_ && count < n; i++) {
            if (x[i] > -INFINITY) heap[count++] = {x[i], 0.0f, int32_t(i)};
        }
        std::make_heap(heap, heap + count, more_likely);
        while (count > 0 && (i = kernels_.find_above(x, i, size_, heap[0].logit)) < size_) {
            std::pop_heap(heap, heap + count, more_likely);
            heap[count - 1] = {x[i], 0.0f, int32_t(i)};
            std::push_heap(heap, heap + count, more_likely);
            i++;
        }
        std::sort_heap(heap, heap + count, more_likely);
        return count;
    }

    // Log-probabilities and rank, from the logits as the model gave them.
    void describe(const float *raw, quire_sample_result *result) {
        const float max = kernels_.max_value(raw, size_);
        const double log_total = double(max) + log(kernels_.softmax_sum(raw, size_, max));
        result->logprob = -INFINITY;
        if (result->token >= 0) {
            const float logit = raw[result->token];
            result->logprob = float(double(logit) - log_total);
            result->rank = int32_t(1 + kernels_.count_before(raw, size_, logit, result->token));
        }
        const int64_t count = find_best(raw, row_.num_logprobs);
        for (int64_t i = 0; i < row_.num_logprobs; i++) {
            const Candidate *best = i < count ? scratch_.candidates + i : nullptr;
            result->top_ids[i] = best ? best->id : -1;
            result->top_logprobs[i] = best ? float(double(best->logit) - log_total) : -INFINITY;
        }
    }

    const Kernels &kernels_;
    const quire_sample_row &row_;
    float *logits_;
    int64_t size_;
    Scratch scratch_;
    float max_ = 0.0f;
};

}  // namespace

int32_t sample_rows(ThreadPool &pool, const Kernels &kernels, float *logits, int64_t stride,
                    int32_t vocab_size, int32_t num_rows, const quire_sample_row *rows,
                    quire_sample_result *results) {
    if (!pool.reserve_scratch(Scratch::bytes(vocab_size))) return QUIRE_NO_MEMORY;
    pool.parallel_for(num_rows, 1, [&](int thread, int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
            Sampler(kernels, rows[i], logits + i * stride, vocab_size, pool.scratch(thread))
                .run(&results[i]);
        }
    });
    return QUIRE_OK;
}

}  // namespace quire

double quire_uniform(uint64_t seed, int64_t output_index) {
    return quire::uniform(seed, uint64_t(output_index));
}

int32_t quire_sample(quire_pool *pool, int32_t isa, float *logits, int64_t stride,
                     int32_t vocab_size, int32_t num_rows, const quire_sample_row *rows,
                     quire_sample_result *results) {
    const quire::Kernels *kernels = quire::find_kernels(isa);
    if (!kernels) return QUIRE_BAD_ISA;
    std::lock_guard<std::mutex> turn(pool->threads.lock());
    return quire::sample_rows(pool->threads, *kernels, logits, stride, vocab_size, num_rows, rows,
                              results);
}
