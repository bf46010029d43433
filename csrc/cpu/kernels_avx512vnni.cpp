// The integer kernels for x86-64 with AVX-512 and VNNI; all others are those of kernels_avx512.cpp.
#include "integer_avx512vnni.h"
#include "vector_avx512.h"
//
#include "integer_kernels.inl"

namespace quire {

constexpr IntegerKernels kAvx512VnniIntegers =
    make_integer_kernels<Avx512Vector, Avx512VnniInteger>();

}  // namespace quire
