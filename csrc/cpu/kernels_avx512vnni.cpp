// The kernels for x86-64 with AVX-512 F, BW, DQ, VL and VNNI.  Only this unit is compiled for those.
#include "integer_avx512vnni.h"
#include "vector_avx512.h"
//
#include "kernels.inl"

namespace quire {

constexpr Kernels kAvx512VnniKernels = make_kernels<Avx512Vector, Avx512VnniInteger>();

}  // namespace quire
