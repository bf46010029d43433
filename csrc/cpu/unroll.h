// Loops that are spelled out before the compiler decides what stays in registers.
//
// The unroll pragma acts too late for that: an array indexed by such a loop may stay in memory.
#ifndef QUIRE_UNROLL_H
#define QUIRE_UNROLL_H

#include "compiler.h"

namespace quire {
namespace {

template <int I>
struct Constant {
    static constexpr int value = I;
    constexpr operator int() const { return I; }
};

// body(Constant<0>{}), body(Constant<1>{}), … N times.  Mark the lambda QUIRE_INLINE_LAMBDA.
template <int N, class Body>
QUIRE_INLINE void unroll(const Body &body) {
    if constexpr (N > 0) {
        unroll<N - 1>(body);
        body(Constant<N - 1>{});
    }
}

}  // namespace
}  // namespace quire

#endif
