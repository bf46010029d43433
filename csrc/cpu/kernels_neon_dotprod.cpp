// The kernels for 64-bit ARM with the dot product instructions.  Only this unit uses those.
#include "integer_neon_dotprod.h"
#include "vector_neon.h"
//
#include "kernels.inl"

namespace quire {

constexpr Kernels kNeonDotprodKernels = make_kernels<NeonVector, NeonDotprodInteger>();

}  // namespace quire
