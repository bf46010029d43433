// The candidates that top-k and top-p leave, found without sorting them all.
//
// Candidates are counted in buckets of their distance from the highest logit; a bucket is 1 % wide.
// Only the one bucket in which the cut lies is sorted.
#include <string.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "sampler.h"

namespace quire {
namespace {

// The upper bits of a float32 >= 0 grow with it: exponents 2^-16 to 2^15, 7 bits of fraction each.
constexpr int kBuckets = 32 << 7;
constexpr int32_t kLowestBits = (127 - 16) << 7;

int bucket_of(float distance) {
    int32_t bits;
    memcpy(&bits, &distance, sizeof bits);
    return std::clamp((bits >> 16) - kLowestBits, 0, kBuckets - 1);
}

// Which candidates stay: those in the buckets before `bucket`, and these of it, most likely first.
struct Cut {
    int bucket;
    std::vector<Candidate> members;

    bool keeps(const Candidate &candidate) const { return !more_likely(members.back(), candidate); }
};

class Buckets {
  public:
    Buckets(const Candidate *candidates, int64_t count, float highest)
        : candidates_(candidates), size_(count), highest_(highest) {
        for (int64_t i = 0; i < count; i++) {
            const int bucket = index(candidates[i]);
            counts_[bucket]++;
            weights_[bucket] += candidates[i].weight;
        }
    }

    // Keeps the top_k most likely; 1 <= top_k <= count.
    Cut cut_at_count(int64_t top_k) const {
        int64_t before = 0;
        int bucket = 0;
        while (before + counts_[bucket] < top_k) before += counts_[bucket++];
        return {bucket, sorted(bucket, top_k - before)};
    }

    // Keeps the fewest with a weight of `enough`, within a cut.
    Cut cut_at_weight(double enough, const Cut &within) const {
        double total = 0.0;
        int bucket = 0;
        while (bucket < within.bucket && total + weights_[bucket] < enough) {
            total += weights_[bucket++];
        }
        const bool last = bucket == within.bucket;
        Cut cut = {bucket, last ? within.members : sorted(bucket, counts_[bucket])};
        size_t kept = 0;
        do {
            total += cut.members[kept++].weight;
        } while (kept < cut.members.size() && total < enough);
        cut.members.resize(kept);
        return cut;
    }

    double weight_of(const Cut &cut) const {
        double total = 0.0;
        for (int bucket = 0; bucket < cut.bucket; bucket++) total += weights_[bucket];
        for (const Candidate &member : cut.members) total += member.weight;
        return total;
    }

  private:
    int index(const Candidate &candidate) const { return bucket_of(highest_ - candidate.logit); }

    // The first `count` members of a bucket, most likely first.
    std::vector<Candidate> sorted(int bucket, int64_t count) const {
        std::vector<Candidate> members;
        members.reserve(counts_[bucket]);
        for (int64_t i = 0; i < size_; i++) {
            if (index(candidates_[i]) == bucket) members.push_back(candidates_[i]);
        }
        std::sort(members.begin(), members.end(), more_likely);
        members.resize(count);
        return members;
    }

    const Candidate *candidates_;
    int64_t size_;
    float highest_;
    int64_t counts_[kBuckets] = {};
    double weights_[kBuckets] = {};
};

}  // namespace

double sum_weights(const Candidate *candidates, int64_t count) {
    double sums[4] = {};  // four chains of additions instead of one
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        for (int j = 0; j < 4; j++) sums[j] += candidates[i + j].weight;
    }
    for (; i < count; i++) sums[0] += candidates[i].weight;
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

int64_t keep_most_likely(Candidate *candidates, int64_t count, float highest, int64_t top_k,
                         float top_p, double total) {
    const bool limited = top_k > 0 && top_k < count;
    if (count == 0 || (!limited && top_p >= 1.0f)) return count;
    const Buckets buckets(candidates, count, highest);
    Cut cut = buckets.cut_at_count(limited ? top_k : count);
    if (top_p < 1.0f) {
        const double whole = top_k > 0 ? buckets.weight_of(cut) : total;
        cut = buckets.cut_at_weight(double(top_p) * whole, cut);
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        candidates[kept] = candidates[i];  // overwritten by the next one unless it stays
        kept += cut.keeps(candidates[i]);
    }
    return kept;
}

}  // namespace quire
