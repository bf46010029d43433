// The bfloat16 kernels of one instruction set, from its vector trait and its products.
//
// The rules of kernels.inl hold here too: no symbol that other units could share.
#include <stdint.h>

#include "integers.h"
#include "kernels.h"
#include "packed.h"
#include "tuning.h"
//
#include "each_vector.inl"
#include "matmul.inl"

namespace quire {
namespace {

// Rounds a row to bfloat16, to nearest even.  order: which number of x is the k-th; null: the k-th.
template <class V>
void round_row(const float *x, const int32_t *order, int64_t cols, float *to) {
    BFloat16 *out = reinterpret_cast<BFloat16 *>(to);
    if (order) {
        for (int64_t k = 0; k < cols; k++) from_float(x[order[k]], out + k);
    } else {
        for_each_vector<V>(cols, [&](auto load, auto store) { store(out, load(x)); });
    }
}

template <class P>
constexpr Bfloat16Kernels make_bfloat16_kernels() {
    return {float_part<P>, round_row<typename P::V>, P::spin};
}

}  // namespace
}  // namespace quire
