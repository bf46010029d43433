#include "isa.h"

#if defined(_MSC_VER) && defined(QUIRE_WITH_AVX2)
#include <intrin.h>
#endif

namespace quire {
namespace {

#if defined(QUIRE_WITH_AVX2) && defined(_MSC_VER)
bool has_avx2() {
    int leaf[4];
    __cpuid(leaf, 0);
    if (leaf[0] < 7) return false;
    __cpuid(leaf, 1);
    const int needed = (1 << 12) | (1 << 27) | (1 << 28) | (1 << 29);  // FMA, OSXSAVE, AVX, F16C
    if ((leaf[2] & needed) != needed) return false;
    if ((_xgetbv(0) & 6) != 6) return false;  // the system saves xmm and ymm
    __cpuidex(leaf, 7, 0);
    return (leaf[1] & (1 << 5)) != 0;
}
#elif defined(QUIRE_WITH_AVX2)
// The compiler's test of avx2 includes that the operating system saves the ymm registers.
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}
#endif

}  // namespace

const Kernels *find_kernels(int32_t isa) {
#if defined(QUIRE_WITH_AVX2)
    static const bool avx2 = has_avx2();
    if (isa == QUIRE_AVX2 && avx2) return &kAvx2Kernels;
#endif
    return isa == QUIRE_PORTABLE ? &kPortableKernels : nullptr;
}

}  // namespace quire

int32_t quire_best_isa(void) {
    return quire::find_kernels(QUIRE_AVX2) ? QUIRE_AVX2 : QUIRE_PORTABLE;
}
