// The bfloat16 kernels for x86-64 with AVX-512 F, BW, DQ, VL and BF16.
#include "bfloat16_avx512.h"
//
#include "bfloat16_kernels.inl"

namespace quire {

constexpr Bfloat16Kernels kAvx512Bfloat16s = make_bfloat16_kernels<Avx512Bfloat16Products>();

}  // namespace quire
