// The few things that each compiler spells its own way.
#ifndef QUIRE_COMPILER_H
#define QUIRE_COMPILER_H

#if defined(_MSC_VER)
#define QUIRE_INLINE __forceinline
#define QUIRE_NOINLINE __declspec(noinline)
#define QUIRE_INLINE_LAMBDA
#define QUIRE_UNROLL
#define QUIRE_PREFETCH_L2(address) ((void)0)
#define QUIRE_IN_REGISTER(constraint, vector) ((void)0)
#else
#define QUIRE_INLINE inline __attribute__((always_inline))
#define QUIRE_NOINLINE __attribute__((noinline))
#define QUIRE_INLINE_LAMBDA __attribute__((always_inline))
#define QUIRE_UNROLL _Pragma("GCC unroll 16")
#define QUIRE_PREFETCH_L2(address) __builtin_prefetch(address, 0, 2)
#define QUIRE_IN_REGISTER(constraint, vector) asm("" : constraint(vector))
#endif

#endif
