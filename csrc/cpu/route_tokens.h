// Which experts a token goes to, and how much each counts.
#ifndef QUIRE_ROUTE_TOKENS_H
#define QUIRE_ROUTE_TOKENS_H

#include <stddef.h>

#include "kernels.h"

namespace quire {

void route_tokens(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last);

// Of each thread.
size_t route_scratch_bytes(const quire_router &router);

}  // namespace quire

#endif
