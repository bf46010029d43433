// The kernels for 64-bit ARM, which always has NEON.
#include "integer_portable.h"
#include "vector_neon.h"
//
#include "integer_kernels.inl"
#include "kernels.inl"

namespace quire {

constexpr Kernels kNeonKernels =
    make_kernels<NeonVector>(make_integer_kernels<NeonVector, PortableInteger>());

}  // namespace quire
