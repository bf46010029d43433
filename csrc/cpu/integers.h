// Integer arithmetic that every kernel needs.  Static: see formats.h.
#ifndef QUIRE_INTEGERS_H
#define QUIRE_INTEGERS_H

#include <stdint.h>

#include "compiler.h"

namespace quire {
namespace {

QUIRE_INLINE int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
QUIRE_INLINE int64_t round_up(int64_t n, int64_t multiple) {
    return ceil_div(n, multiple) * multiple;
}
QUIRE_INLINE int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}
QUIRE_INLINE int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

}  // namespace
}  // namespace quire

#endif
