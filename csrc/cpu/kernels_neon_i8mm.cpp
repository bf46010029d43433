// The integer kernels for 64-bit ARM with matrix products of 8-bit integers; all others are those of
// kernels_neon.cpp.
#include "integer_neon_i8mm.h"
#include "vector_neon.h"
//
#include "integer_kernels.inl"

namespace quire {

constexpr IntegerKernels kNeonI8mmIntegers = make_integer_kernels<NeonVector, NeonI8mmInteger>();

}  // namespace quire
