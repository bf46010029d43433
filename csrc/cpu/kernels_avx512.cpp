// The kernels for x86-64 with AVX-512 F, BW, DQ and VL.  Only this unit is compiled for those.
#include "integer_avx2.h"
#include "vector_avx512.h"
//
#include "integer_kernels.inl"
#include "kernels.inl"

namespace quire {

constexpr Kernels kAvx512Kernels =
    make_kernels<Avx512Vector>(make_integer_kernels<Avx512Vector, Avx2Integer>());

}  // namespace quire
