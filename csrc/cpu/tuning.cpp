// The tunings that hold where nobody measured.  docs/tuning.md says what was tried.
#include "isa.h"
#include "packed.h"

namespace quire {

constexpr int32_t kKiB = 1024;

void default_tunings(const Kernels &kernels, quire_tuning *tunings) {
    // Panels are one stream, which the hardware follows by itself while little work stands between
    // one line and the next: the fewer rows, the fewer products in a line.  It is late to notice each
    // row of floats.
    const IntegerKernels &integers = kernels.integers;
    for (int dtype = 0; dtype < QUIRE_NUM_DTYPES; dtype++) {
        const bool packed = is_packed(dtype);
        tunings[dtype].tile_rows = packed ? integers.tile_rows : kernels.tile_rows;
        tunings[dtype].ahead_rows = !packed               ? 1
                                    : dtype == QUIRE_INT8 ? 2 * integers.ahead_rows - 1
                                                          : integers.ahead_rows;
        tunings[dtype].ahead_bytes = packed ? integers.ahead_bytes : 24 * kKiB;
        tunings[dtype].block_bytes = 512 * kKiB;
        tunings[dtype].chunk_bytes = 512 * kKiB;
    }
}

}  // namespace quire

int32_t quire_default_tunings(int32_t isa, quire_tuning tunings[QUIRE_NUM_DTYPES]) {
    const quire::Kernels *kernels = quire::find_kernels(isa);
    if (!kernels) return QUIRE_BAD_ISA;
    quire::default_tunings(*kernels, tunings);
    return QUIRE_OK;
}
