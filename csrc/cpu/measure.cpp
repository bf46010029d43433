// What this machine can do at most, to set beside what the kernels reach.
#include <atomic>

#include "isa.h"
#include "thread_pool.h"

namespace {

// Runs a measurement over a range of units on all threads; returns the sum of what its parts return.
template <class Part>
int64_t measure(quire_pool *pool, int32_t isa, int64_t count, int64_t grain, Part part) {
    const quire::Kernels *kernels = quire::find_kernels(isa);
    if (!kernels) return 0;
    std::lock_guard<std::mutex> turn(pool->threads.lock());
    std::atomic<int64_t> total{0};
    pool->threads.parallel_for(count, grain, [&](int, int64_t first, int64_t last) {
        float sink = 0.0f;
        total += part(*kernels, first, last, &sink);
    });
    return total;
}

constexpr int64_t kIterations = 10000, kFloats = 1 << 16;  // that a thread takes at once

}  // namespace

int64_t quire_measure_read(quire_pool *pool, int32_t isa, const float *data, int64_t count) {
    return measure(pool, isa, count, kFloats,
                   [&](const quire::Kernels &kernels, int64_t first, int64_t last, float *sink) {
                       return kernels.spin_read(data + first, last - first, sink);
                   });
}

int64_t quire_measure_fma(quire_pool *pool, int32_t isa, int64_t iterations) {
    return measure(pool, isa, iterations, kIterations,
                   [](const quire::Kernels &kernels, int64_t first, int64_t last, float *sink) {
                       return kernels.spin_fma(last - first, sink);
                   });
}

int64_t quire_measure_int8(quire_pool *pool, int32_t isa, int64_t iterations) {
    return measure(pool, isa, iterations, kIterations,
                   [](const quire::Kernels &kernels, int64_t first, int64_t last, float *sink) {
                       return kernels.integers.spin(last - first, sink);
                   });
}

int64_t quire_measure_bfloat16(quire_pool *pool, int32_t isa, int64_t iterations) {
    return measure(pool, isa, iterations, kIterations,
                   [](const quire::Kernels &kernels, int64_t first, int64_t last, float *sink) {
                       const auto spin = kernels.bfloat16s.spin;
                       return spin ? spin(last - first, sink) : 0;
                   });
}

// Each job ends only after every thread has come: what an op with work for all of them pays.
int64_t quire_measure_barriers(quire_pool *pool, int64_t count) {
    std::lock_guard<std::mutex> turn(pool->threads.lock());
    const int num_threads = pool->threads.num_threads();
    for (int64_t i = 0; i < count; i++) {
        std::atomic<int> arrived{0};
        pool->threads.parallel_for(num_threads, 1, [&](int, int64_t, int64_t) {
            arrived++;
            for (int looks = 0; arrived.load() < num_threads; looks++) {
                if (looks > 10000) std::this_thread::yield();
            }
        });
    }
    return count;
}
