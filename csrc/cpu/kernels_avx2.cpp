// The kernels for x86-64 with AVX2, FMA and F16C.  Only this unit is compiled for those.
#include "integer_avx2.h"
#include "vector_avx2.h"
//
#include "integer_kernels.inl"
#include "kernels.inl"

namespace quire {

constexpr Kernels kAvx2Kernels =
    make_kernels<Avx2Vector>(make_integer_kernels<Avx2Vector, Avx2Integer>());

}  // namespace quire
