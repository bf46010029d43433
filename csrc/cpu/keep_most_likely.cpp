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

// Where the kept ones end: everything in buckets before `bucket`, and `count` of it, most likely first.
struct Cut {
    int bucket;
    int64_t count;
};

class Buckets {
  public:
    Buckets(const Candidate *candidates, int64_t count) : candidates_(candidates), size_(count) {
        highest_ = -INFINITY;
        for (int64_t i = 0; i < count; i++) highest_ = std::max(highest_, candidates[i].logit);
        memset(counts_, 0, sizeof counts_);
        memset(weights_, 0, sizeof weights_);
        for (int64_t i = 0; i < count; i++) {
            const int bucket = index(candidates[i]);
            counts_[bucket]++;
            weights_[bucket] += candidates[i].weight;
        }
    }

    int index(const Candidate &candidate) const { return bucket_of(highest_ - candidate.logit); }

    // The members of one bucket, most likely first.
    std::vector<Candidate> sorted(int bucket) const {
        std::vector<Candidate> members;
        for (int64_t i = 0; i < size_; i++) {
            if (index(candidates_[i]) == bucket) members.push_back(candidates_[i]);
        }
        std::sort(members.begin(), members.end(), more_likely);
        return members;
    }

    Cut cut_at_count(int64_t top_k) const {
        int64_t before = 0;
        int bucket = 0;
        while (before + counts_[bucket] < top_k) before += counts_[bucket++];
        return {bucket, top_k - before};
    }

    double weight_before(const Cut &cut) const {
        double total = 0.0;
        for (int bucket = 0; bucket < cut.bucket; bucket++) total += weights_[bucket];
        const std::vector<Candidate> members = sorted(cut.bucket);
        for (int64_t i = 0; i < cut.count; i++) total += members[i].weight;
        return total;
    }

    Cut cut_at_weight(double enough, const Cut &latest) const {
        double total = 0.0;
        int bucket = 0;
        while (bucket < latest.bucket && total + weights_[bucket] < enough) {
            total += weights_[bucket++];
        }
        const std::vector<Candidate> members = sorted(bucket);
        const int64_t most = bucket == latest.bucket ? latest.count : int64_t(members.size());
        int64_t count = 0;
        while (count < most && total < enough) total += members[count++].weight;
        return {bucket, count};
    }

  private:
    const Candidate *candidates_;
    int64_t size_;
    float highest_;
    int64_t counts_[kBuckets];
    double weights_[kBuckets];
};

}  // namespace

int64_t keep_most_likely(Candidate *candidates, int64_t count, int64_t top_k, float top_p,
                         double total) {
    const bool limited = top_k > 0 && top_k < count;
    if (count == 0 || (!limited && top_p >= 1.0f)) return count;
    const Buckets buckets(candidates, count);
    Cut cut = buckets.cut_at_count(limited ? top_k : count);
    if (top_p < 1.0f) {
        const double whole = top_k > 0 ? buckets.weight_before(cut) : total;
        cut = buckets.cut_at_weight(double(top_p) * whole, cut);
    }
    const std::vector<Candidate> members = buckets.sorted(cut.bucket);
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        const int bucket = buckets.index(candidates[i]);
        const bool keep = bucket < cut.bucket ||
                          (bucket == cut.bucket && cut.count > 0 &&
                           !more_likely(members[cut.count - 1], candidates[i]));
        if (keep) candidates[kept++] = candidates[i];
    }
    return kept;
}

}  // namespace quire
