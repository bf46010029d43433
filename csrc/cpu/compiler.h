// The few things that each compiler spells its own way.
#ifndef QUIRE_COMPILER_H
#define QUIRE_COMPILER_H

#if defined(_MSC_VER)
#define QUIRE_INLINE __forceinline
#define QUIRE_NOINLINE __declspec(noinline)
#define QUIRE_INLINE_LAMBDA
#define QUIRE_UNROLL
#define QUIRE_PREFETCH_L2(address) ((void)0)
#define QUIRE_KEEP_ORDER(value) ((void)0)
#else
#define QUIRE_INLINE inline __attribute__((always_inline))
#define QUIRE_NOINLINE __attribute__((noinline))
#define QUIRE_INLINE_LAMBDA __attribute__((always_inline))
#define QUIRE_UNROLL _Pragma("GCC unroll 16")
#define QUIRE_PREFETCH_L2(address) __builtin_prefetch(address, 0, 2)
// Makes an x86 vector register's value opaque, so that what computed it stays where it is.
#define QUIRE_KEEP_ORDER(value) __asm__("" : "+x"(value))
#endif

#endif
