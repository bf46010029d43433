// The kernels in plain C++, for every machine.
#include "integer_portable.h"
#include "vector_portable.h"
//
#include "integer_kernels.inl"
#include "kernels.inl"

namespace quire {

constexpr Kernels kPortableKernels =
    make_kernels<PortableVector>(make_integer_kernels<PortableVector, PortableInteger>());

}  // namespace quire
