// The kernels for 64-bit ARM, which always has NEON.
#include "vector_neon.h"
//
#include "kernels.inl"

namespace quire {

constexpr Kernels kNeonKernels = make_kernels<NeonVector>();

}  // namespace quire
