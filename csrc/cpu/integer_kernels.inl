// The integer kernels of one instruction set, from one vector trait and one integer trait.
//
// The rules of kernels.inl hold here too: no symbol that other units could share.
#include <float.h>
#include <stdint.h>

#include "formats.h"
#include "integers.h"
#include "kernels.h"
#include "packed_format.h"
#include "tuning.h"
#include "unroll.h"
//
#include "integer_matmul.inl"
#include "quantize.inl"

namespace quire {
namespace {

template <class V, class Q>
constexpr IntegerKernels make_integer_kernels() {
    return {Q::kMaxRows,     Q::kAheadRows,      Q::kAheadBytes,
            integer_part<Q>, quantize_row<V, Q>, Q::spin};
}

}  // namespace
}  // namespace quire
