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
bool has_avx512vnni() {
    int leaf[4];
    if (!has_avx2() || (_xgetbv(0) & 0xe6) != 0xe6) return false;  // zmm and masks are saved too
    __cpuidex(leaf, 7, 0);
    const unsigned needed = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
    return (unsigned(leaf[1]) & needed) == needed && (leaf[2] & (1 << 11));
}
#elif defined(QUIRE_WITH_AVX2)
// The compiler's test of avx2 includes that the operating system saves the ymm registers.
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}
bool has_avx512vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

}  // namespace

const Kernels *find_kernels(int32_t isa) {
#if defined(QUIRE_WITH_AVX2)
    static const bool avx2 = has_avx2();
    static const bool avx512vnni = has_avx512vnni();
    if (isa == QUIRE_AVX2 && avx2) return &kAvx2Kernels;
    if (isa == QUIRE_AVX512VNNI && avx512vnni) return &kAvx512VnniKernels;
#endif
    return isa == QUIRE_PORTABLE ? &kPortableKernels : nullptr;
}

}  // namespace quire

int32_t quire_best_isa(void) {
    if (quire::find_kernels(QUIRE_AVX512VNNI)) return QUIRE_AVX512VNNI;
    if (quire::find_kernels(QUIRE_AVX2)) return QUIRE_AVX2;
    return QUIRE_PORTABLE;
}
