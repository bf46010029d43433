// The integer kernels for 64-bit ARM with dot products; all others are those of kernels_neon.cpp.
#include "integer_neon_dotprod.h"
#include "vector_neon.h"
//
#include "integer_kernels.inl"

namespace quire {

constexpr IntegerKernels kNeonDotprodIntegers =
    make_integer_kernels<NeonVector, NeonDotprodInteger>();

}  // namespace quire
