// The kernels in plain C++, for every machine.
#include "integer_portable.h"
#include "vector_portable.h"
//
#include "kernels.inl"

namespace quire {

constexpr Kernels kPortableKernels = make_kernels<PortableVector, PortableInteger>();

}  // namespace quire
