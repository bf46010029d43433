// What happens to logits before a token is chosen: masks, bias, penalties.
#include <math.h>
#include <string.h>

#include "sampler.h"

namespace quire {
namespace {

struct Row {
    const quire_sample_row &wanted;
    int32_t vocab_size;
    float *logits;

    bool known(int32_t id) const { return id >= 0 && id < vocab_size; }
    void forbid(int32_t id) const {
        if (known(id)) logits[id] = -INFINITY;
    }
};

void apply_bitmask(const Row &row) {
    if (!row.wanted.bitmask) return;
    for (int32_t word = 0; word * 32 < row.vocab_size; word++) {
        const uint32_t bits = row.wanted.bitmask[word];
        if (bits == 0xffffffffu) continue;
        const int32_t first = word * 32, left = row.vocab_size - first;
        for (int32_t i = 0; i < (left < 32 ? left : 32); i++) {
            if (!(bits >> i & 1)) row.logits[first + i] = -INFINITY;
        }
    }
}

void keep_allowed(const Row &row, float *saved) {
    if (row.wanted.num_allowed <= 0) return;
    memcpy(saved, row.logits, sizeof(float) * row.vocab_size);
    for (int32_t i = 0; i < row.vocab_size; i++) row.logits[i] = -INFINITY;
    for (int32_t i = 0; i < row.wanted.num_allowed; i++) {
        const int32_t id = row.wanted.allowed[i];
        if (row.known(id)) row.logits[id] = saved[id];
    }
}

void forbid_bad_words(const Row &row) {
    const quire_sample_row &wanted = row.wanted;
    int32_t next = 0;
    while (next < wanted.num_bad_words) {
        const int32_t length = wanted.bad_words[next];
        const int32_t *word = wanted.bad_words + next + 1;
        if (length < 1 || length > wanted.num_bad_words - next - 1) return;  // not a word
        const int32_t *tail = wanted.output + wanted.num_output - (length - 1);
        if (length - 1 <= wanted.num_output &&
            (length == 1 || memcmp(word, tail, sizeof(int32_t) * (length - 1)) == 0)) {
            row.forbid(word[length - 1]);
        }
        next += length + 1;
    }
}

template <class Each>
void for_each_token(const Row &row, const int32_t *ids, int32_t count, Each each) {
    for (int32_t i = 0; i < count; i++) {
        if (row.known(ids[i])) each(ids[i]);
    }
}

// counts is garbage on entry: only the entries of tokens that occur are cleared and used.
void penalize_repetition(const Row &row, int32_t *counts) {
    const quire_sample_row &wanted = row.wanted;
    const float penalty = wanted.repetition_penalty;
    if (penalty == 1.0f) return;
    const auto clear = [&](int32_t id) { counts[id] = 0; };
    const auto penalize = [&](int32_t id) {
        if (counts[id]++) return;
        float &logit = row.logits[id];
        logit = logit > 0.0f ? logit / penalty : logit * penalty;
    };
    for_each_token(row, wanted.prompt, wanted.num_prompt, clear);
    for_each_token(row, wanted.output, wanted.num_output, clear);
    for_each_token(row, wanted.prompt, wanted.num_prompt, penalize);
    for_each_token(row, wanted.output, wanted.num_output, penalize);
}

void penalize_frequency_and_presence(const Row &row, int32_t *counts) {
    const quire_sample_row &wanted = row.wanted;
    if (wanted.frequency_penalty == 0.0f && wanted.presence_penalty == 0.0f) return;
    for_each_token(row, wanted.output, wanted.num_output, [&](int32_t id) { counts[id] = 0; });
    for_each_token(row, wanted.output, wanted.num_output, [&](int32_t id) { counts[id]++; });
    for_each_token(row, wanted.output, wanted.num_output, [&](int32_t id) {
        if (counts[id] == 0) return;  // done already
        const float frequency = wanted.frequency_penalty * float(counts[id]);
        row.logits[id] = (row.logits[id] - frequency) - wanted.presence_penalty;
        counts[id] = 0;
    });
}

}  // namespace

void adjust_logits(const quire_sample_row &wanted, int32_t vocab_size, float *logits,
                   void *scratch) {
    const Row row = {wanted, vocab_size, logits};
    apply_bitmask(row);
    keep_allowed(row, static_cast<float *>(scratch));
    for (int32_t i = 0; i < wanted.num_forbidden; i++) row.forbid(wanted.forbidden[i]);
    forbid_bad_words(row);
    for (int32_t i = 0; i < wanted.num_bias; i++) {
        if (row.known(wanted.bias_ids[i])) logits[wanted.bias_ids[i]] += wanted.bias[i];
    }
    penalize_repetition(row, static_cast<int32_t *>(scratch));
    penalize_frequency_and_presence(row, static_cast<int32_t *>(scratch));
}

}  // namespace quire
