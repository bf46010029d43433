// Which instruction sets this machine can run, and the kernels built for each.
#ifndef QUIRE_ISA_H
#define QUIRE_ISA_H

#include "kernels.h"

namespace quire {

// The kernels for `isa`, or nullptr when this build or this machine cannot run them.
const Kernels *find_kernels(int32_t isa);

}  // namespace quire

#endif
