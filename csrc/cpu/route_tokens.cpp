// The router of a mixture of experts: from the logits of a row to ids and weights.
//
// A row is some hundred numbers, so all but the exponentials is plain scalar code.  Whatever the
// logits are, numbers or not, the ids are top_k different experts.
#include "route_tokens.h"

#include <math.h>
#include <string.h>

#include "integers.h"

namespace quire {
namespace {

// The best few of some numbers, the lowest id among equals.
class Best {
  public:
    explicit Best(int32_t room) : room_(room) {}

    void offer(int32_t id, float value) {
        int32_t at = count_;
        while (at > 0 && value > values_[at - 1]) at--;
        if (at == room_) return;
        count_ += count_ < room_;
        for (int32_t i = count_ - 1; i > at; i--)
            ids_[i] = ids_[i - 1], values_[i] = values_[i - 1];
        ids_[at] = id, values_[at] = value;
    }

    int32_t id(int32_t place) const { return ids_[place]; }
    float value(int32_t place) const { return values_[place]; }

  private:
    int32_t room_, count_ = 0;
    int32_t ids_[QUIRE_MAX_TOP_K];
    float values_[QUIRE_MAX_TOP_K];
};

struct Chosen {
    int32_t ids[QUIRE_MAX_TOP_K];
    float weights[QUIRE_MAX_TOP_K];
};

class RowRouter {
  public:
    RowRouter(const quire_router &router, const Kernels &kernels, float *memory)
        : router_(router),
          kernels_(kernels),
          scores_(memory),
          rankings_(memory + router.num_experts),
          group_is_open_(reinterpret_cast<uint8_t *>(memory + 2 * router.num_experts)) {}

    void route(const float *logits, float *out) {
        Chosen chosen;
        router_.scoring == QUIRE_SPARSEMIXER ? mix_sparsely(logits, &chosen)
                                             : choose(logits, &chosen);
        write(chosen, out);
    }

  private:
    void choose(const float *logits, Chosen *chosen) {
        find_scores(logits);
        find_rankings(logits);
        open_groups();
        Best best(router_.top_k);
        const int32_t group_size = router_.num_experts / router_.num_groups;
        for (int32_t e = 0; e < router_.num_experts; e++) {
            if (group_is_open_[e / group_size]) best.offer(e, rankings_[e]);
        }
        for (int32_t i = 0; i < router_.top_k; i++) {
            chosen->ids[i] = best.id(i);
            chosen->weights[i] = scores_[best.id(i)];
        }
    }

    void find_scores(const float *logits) {
        const int32_t n = router_.num_experts;
        if (router_.scoring == QUIRE_SIGMOID) {
            for (int32_t e = 0; e < n; e++) scores_[e] = 1.0f / (1.0f + expf(-logits[e]));
            return;
        }
        const float largest = kernels_.max_value(logits, n);
        const double sum = kernels_.softmax_weights(logits, n, largest, 1.0f, scores_);
        for (int32_t e = 0; e < n; e++) scores_[e] = float(scores_[e] / sum);
    }

    void find_rankings(const float *logits) {
        const bool by_logit = !router_.bias && router_.num_groups == 1;
        for (int32_t e = 0; e < router_.num_experts; e++) {
            rankings_[e] = by_logit       ? logits[e]
                           : router_.bias ? scores_[e] + router_.bias[e]
                                          : scores_[e];
        }
    }

    void open_groups() {
        const int32_t groups = router_.num_groups, size = router_.num_experts / groups;
        memset(group_is_open_, router_.top_groups == groups, groups);
        if (router_.top_groups == groups) return;
        Best best(router_.top_groups);
        for (int32_t g = 0; g < groups; g++) best.offer(g, group_score(rankings_ + g * size, size));
        for (int32_t i = 0; i < router_.top_groups; i++) group_is_open_[best.id(i)] = 1;
    }

    float group_score(const float *rankings, int32_t size) const {
        const bool two = router_.group_score == QUIRE_GROUP_TOP2_SUM && size > 1;
        Best best(two ? 2 : 1);
        for (int32_t i = 0; i < size; i++) best.offer(i, rankings[i]);
        return two ? best.value(0) + best.value(1) : best.value(0);
    }

    // Two rounds; in the second, the winner of the first is out of the race.
    void mix_sparsely(const float *logits, Chosen *chosen) {
        memcpy(rankings_, logits, sizeof(float) * router_.num_experts);
        for (int32_t round = 0; round < router_.top_k; round++) {
            Best best(1);
            for (int32_t e = 0; e < router_.num_experts; e++) {
                if (round == 0 || e != chosen->ids[0]) best.offer(e, rankings_[e]);
            }
            const float top = best.value(0);
            float sum = 0.0f;
            for (int32_t e = 0; e < router_.num_experts; e++) {
                if (round > 0 && e == chosen->ids[0]) continue;
                const float size = fabsf(logits[e]) > top ? fabsf(logits[e]) : top;
                if (!((top - logits[e]) / size > 2.0f * router_.jitter))
                    sum += expf(logits[e] - top);
            }
            chosen->ids[round] = best.id(0);
            chosen->weights[round] = 1.0f / sum;
        }
    }

    // Puts the ids into ascending order; the sum over them is then the same whoever wrote them.
    void write(const Chosen &chosen, float *out) const {
        const int32_t k = router_.top_k;
        float sum = 0.0f;
        for (int32_t i = 0; i < k; i++) {
            int32_t place = 0;
            for (int32_t j = 0; j < k; j++) place += chosen.ids[j] < chosen.ids[i];
            out[place] = float(chosen.ids[i]);
            out[k + place] = chosen.weights[i];
        }
        for (int32_t i = 0; i < k; i++) sum += out[k + i];
        const float least = sum < router_.least_sum ? router_.least_sum : sum;
        for (int32_t i = 0; i < k; i++) {
            out[k + i] = (router_.normalises ? out[k + i] / least : out[k + i]) * router_.scale;
        }
    }

    const quire_router &router_;
    const Kernels &kernels_;
    float *scores_, *rankings_;
    uint8_t *group_is_open_;
};

}  // namespace

void route_tokens(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    RowRouter router(*op.router, *run.kernels, reinterpret_cast<float *>(scratch));
    for (int64_t t = first; t < last; t++) {
        router.route(run.row(op.in[0], t), run.row(op.out[0], t));
    }
}

size_t route_scratch_bytes(const quire_router &router) {
    return sizeof(float) * 2 * router.num_experts + router.num_groups;
}

}  // namespace quire
