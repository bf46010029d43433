// The kernels for x86-64 with AVX-512 F, BW, DQ and VL but the integer ones, which without VNNI are
// those of kernels_avx2.cpp.  Only this unit is compiled for those instructions.
#include "vector_avx512.h"
//
#include "kernels.inl"

namespace quire {

constexpr Kernels kAvx512Kernels = make_kernels<Avx512Vector>({});

}  // namespace quire
