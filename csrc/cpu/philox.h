// Philox4x32-10: random numbers as a pure function of a key and a counter.  Source: Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#ifndef QUIRE_PHILOX_H
#define QUIRE_PHILOX_H

#include <stdint.h>

#include <array>

namespace quire {

inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
    for (int round = 0; round < 10; round++) {
        const uint64_t a = uint64_t(counter[0]) * 0xD2511F53u;
        const uint64_t b = uint64_t(counter[2]) * 0xCD9E8D57u;
        counter = {uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b),
                   uint32_t(a >> 32) ^ counter[3] ^ key[1], uint32_t(a)};
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return counter;
}

// A multiple of 2^-24 in [0, 1).
inline double uniform(uint64_t seed, uint64_t index) {
    const auto words = philox4x32({uint32_t(index), uint32_t(index >> 32), 0, 0},
                                  {uint32_t(seed), uint32_t(seed >> 32)});
    return double(words[0] >> 8) * (1.0 / 16777216.0);
}

}  // namespace quire

#endif
