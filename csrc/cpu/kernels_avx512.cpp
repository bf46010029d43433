// The kernels for x86-64 with AVX-512 F, BW, DQ and VL.  Only this unit is compiled for those.
#include "vector_avx512.h"
//
#include "kernels.inl"

namespace quire {

constexpr Kernels kAvx512Kernels = make_kernels<Avx512Vector>();

}  // namespace quire
