// The experts of a mixture: only those that tokens chose are read, each for all of its tokens.
#ifndef QUIRE_EXPERTS_H
#define QUIRE_EXPERTS_H

#include <stddef.h>

#include <vector>

#include "kernels.h"

namespace quire {

// Which tokens each expert serves in this step.
class ExpertPlan {
  public:
    // Sorts what the tokens chose by expert; false: an id that is none.
    bool sort(const quire_op &op, const Run &run);

    std::vector<ExpertRows> experts;
    std::vector<ExpertRow> rows;
};

// First every expert's activation(gate, up), into the op's room; a unit is a block of an expert's
// hidden columns.  Then every token's sum; a unit is a block of its columns.
constexpr int64_t kExpertColumns = 32;
int64_t hidden_units(const quire_op &op, const Run &run);
int64_t sum_units(const quire_op &op);
void expert_hidden(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last);
void expert_sums(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last);

// Of weights that the units of each half read.
int64_t hidden_bytes(const quire_op &op, const Run &run);
int64_t sum_bytes(const quire_op &op, const Run &run);

// Of each thread.
size_t expert_scratch_bytes(const quire_op &op, const Run &run);

}  // namespace quire

#endif
