// The few things that each compiler spells its own way.
#ifndef QUIRE_COMPILER_H
#define QUIRE_COMPILER_H

#if defined(_MSC_VER)
#define QUIRE_INLINE __forceinline
#define QUIRE_UNROLL
#define QUIRE_PREFETCH_L2(address) ((void)0)
#define QUIRE_IN_REGISTER(vector) ((void)0)
#else
#define QUIRE_INLINE inline __attribute__((always_inline))
#define QUIRE_UNROLL _Pragma("GCC unroll 16")
#define QUIRE_PREFETCH_L2(address) __builtin_prefetch(address, 0, 2)
// Keeps the compiler from reading the memory behind a vector again at each use.
#if defined(__x86_64__)
#define QUIRE_IN_REGISTER(vector) asm("" : "+v"(vector))
#else
#define QUIRE_IN_REGISTER(vector) asm("" : "+w"(vector))
#endif
#endif

#endif
