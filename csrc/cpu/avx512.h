// The intrinsics of AVX-512, or the model that takes their place.
#ifndef QUIRE_AVX512_H
#define QUIRE_AVX512_H

#include <immintrin.h>

#if defined(QUIRE_MODEL_AVX512)
#include "avx512_model.h"
#endif

#endif
