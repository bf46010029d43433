#include "isa.h"

#include "packed.h"

#if defined(QUIRE_WITH_AVX2)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

#if defined(QUIRE_WITH_AVX2) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(QUIRE_WITH_NEON_DOTPROD) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace quire {
namespace {

#if defined(QUIRE_WITH_AVX2)
// The words that the CPUID instruction returns.
struct CpuId {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuId cpu_id(uint32_t leaf, uint32_t part = 0) {
    CpuId id;
#if defined(_MSC_VER)
    int words[4];
    __cpuidex(words, int(leaf), int(part));
    id = {uint32_t(words[0]), uint32_t(words[1]), uint32_t(words[2]), uint32_t(words[3])};
#else
    __cpuid_count(leaf, part, id.eax, id.ebx, id.ecx, id.edx);
#endif
    return id;
}

// Which registers the operating system saves: extended control register 0.
uint32_t saved_state() {
#if defined(_MSC_VER)
    return uint32_t(_xgetbv(0));
#else
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
#endif
}

bool has_all(uint32_t bits, uint32_t wanted) {
    return (bits & wanted) == wanted;
}

bool has_avx2() {
    constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
    constexpr uint32_t kAvx2 = 1u << 5, kXmmAndYmm = 0x06;
    return cpu_id(0).eax >= 7 && has_all(cpu_id(1).ecx, kFma | kOsxsave | kAvx | kF16c) &&
           has_all(saved_state(), kXmmAndYmm) && has_all(cpu_id(7).ebx, kAvx2);
}

#if defined(QUIRE_MODEL_AVX512)
bool has_avx512() {
    return has_avx2();
}
bool has_avx512vnni() {
    return has_avx2();
}
bool has_avx512bf16() {
    return has_avx2();
}
[[maybe_unused]] bool has_amx() {
    return has_avx2();
}
#else
bool has_avx512() {
    constexpr uint32_t kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
    constexpr uint32_t kMasksAndZmm = 0xe0;
    return has_avx2() && has_all(saved_state(), kMasksAndZmm) &&
           has_all(cpu_id(7).ebx, kF | kDq | kBw | kVl);
}

bool has_avx512vnni() {
    constexpr uint32_t kVnni = 1u << 11;
    return has_avx512() && has_all(cpu_id(7).ecx, kVnni);
}

bool has_avx512bf16() {
    constexpr uint32_t kBf16 = 1u << 5;
    return has_avx512vnni() && cpu_id(7).eax >= 1 && has_all(cpu_id(7, 1).eax, kBf16);
}

// Linux lets a process use tiles only after it has asked: they make every saved context 8 KiB larger.
[[maybe_unused]] bool has_amx() {
#if defined(__linux__)
    constexpr uint32_t kTile = 1u << 24, kInt8 = 1u << 25, kTileState = 3u << 17;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return has_avx512bf16() && has_all(cpu_id(7).edx, kTile | kInt8) &&
           has_all(saved_state(), kTileState) &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}
#endif
#endif

#if defined(QUIRE_WITH_NEON_DOTPROD)
bool has_neon_dotprod() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return true;  // Apple's processors and those that run Windows have it
#endif
}
#endif

#if defined(QUIRE_WITH_NEON_I8MM)
bool has_neon_i8mm() {
#if defined(__linux__)
    constexpr unsigned long kI8mm = 1ul << 13;  // HWCAP2_I8MM, which older headers lack
    return has_neon_dotprod() && (getauxval(AT_HWCAP2) & kI8mm) != 0;
#else
    return false;  // it was never built elsewhere
#endif
}
#endif

// The kernels of an instruction set that differs from another in the integer ones only.
[[maybe_unused]] Kernels with_integers(Kernels kernels, const IntegerKernels &integers) {
    kernels.integers = integers;
    return kernels;
}

[[maybe_unused]] Kernels with_bfloat16s(Kernels kernels, const Bfloat16Kernels &bfloat16s) {
    kernels.bfloat16s = bfloat16s;
    return kernels;
}

}  // namespace

const Kernels *find_kernels(int32_t isa) {
    switch (isa) {
        case QUIRE_PORTABLE:
            return &kPortableKernels;
#if defined(QUIRE_WITH_AVX2)
        case QUIRE_AVX2: {
            static const bool can_run = has_avx2();
            return can_run ? &kAvx2Kernels : nullptr;
        }
#endif
#if defined(QUIRE_WITH_AVX512)
        case QUIRE_AVX512: {
            static const Kernels kernels = with_integers(kAvx512Kernels, kAvx2Kernels.integers);
            static const bool can_run = has_avx512();
            return can_run ? &kernels : nullptr;
        }
#endif
#if defined(QUIRE_WITH_AVX512VNNI)
        case QUIRE_AVX512VNNI: {
            static const Kernels kernels = with_integers(kAvx512Kernels, kAvx512VnniIntegers);
            static const bool can_run = has_avx512vnni();
            return can_run ? &kernels : nullptr;
        }
#endif
#if defined(QUIRE_WITH_AVX512BF16)
        case QUIRE_AVX512BF16: {
            static const Kernels kernels = with_bfloat16s(
                with_integers(kAvx512Kernels, kAvx512VnniIntegers), kAvx512Bfloat16s);
            static const bool can_run = has_avx512bf16();
            return can_run ? &kernels : nullptr;
        }
#endif
#if defined(QUIRE_WITH_AMX)
        case QUIRE_AMX: {
            static const Kernels kernels =
                with_bfloat16s(with_integers(kAvx512Kernels, kAmxIntegers), kAvx512Bfloat16s);
            static const bool can_run = has_amx();
            return can_run ? &kernels : nullptr;
        }
#endif
#if defined(QUIRE_WITH_NEON)
        case QUIRE_NEON:  // every 64-bit ARM has it
            return &kNeonKernels;
#endif
#if defined(QUIRE_WITH_NEON_DOTPROD)
        case QUIRE_NEON_DOTPROD: {
            static const Kernels kernels = with_integers(kNeonKernels, kNeonDotprodIntegers);
            static const bool can_run = has_neon_dotprod();
            return can_run ? &kernels : nullptr;
        }
#endif
#if defined(QUIRE_WITH_NEON_I8MM)
        case QUIRE_NEON_I8MM: {
            static const Kernels kernels = with_integers(kNeonKernels, kNeonI8mmIntegers);
            static const bool can_run = has_neon_i8mm();
            return can_run ? &kernels : nullptr;
        }
#endif
        default:
            return nullptr;
    }
}

}  // namespace quire

int32_t quire_can_run(int32_t isa) {
    return quire::find_kernels(isa) != nullptr;
}

int32_t quire_row_dtype(int32_t isa, int32_t weights) {
    const quire::Kernels *kernels = quire::find_kernels(isa);
    if (quire::is_packed(weights)) return QUIRE_INT8;
    return weights == QUIRE_BF16 && kernels && kernels->bfloat16s.linear_part ? QUIRE_BF16
                                                                              : QUIRE_F32;
}

int32_t quire_best_isa(void) {
    int32_t isa = QUIRE_NEON_I8MM;  // they stand in order: the last that runs is the best
    while (!quire_can_run(isa)) isa--;
    return isa;
}
