// An op that needs no instruction set of its own.
#ifndef QUIRE_ROPE_ANGLES_H
#define QUIRE_ROPE_ANGLES_H

#include "kernels.h"

namespace quire {

void rope_angles(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last);

}  // namespace quire

#endif
