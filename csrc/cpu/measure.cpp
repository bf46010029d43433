// What this machine can do at most, to set beside what the kernels reach.
#include <atomic>

#include "isa.h"
#include "thread_pool.h"

int64_t quire_measure_read(quire_pool *pool, int32_t isa, const float *data, int64_t count) {
    const quire::Kernels *kernels = quire::find_kernels(isa);
    if (!kernels) return 0;
    std::lock_guard<std::mutex> turn(pool->threads.lock());
    std::atomic<int64_t> bytes{0};
    pool->threads.parallel_for(count, 1 << 16, [&](int, int64_t first, int64_t last) {
        float sink = 0.0f;
        bytes += kernels->spin_read(data + first, last - first, &sink);
    });
    return bytes;
}

int64_t quire_measure_fma(quire_pool *pool, int32_t isa, int64_t iterations) {
    const quire::Kernels *kernels = quire::find_kernels(isa);
    if (!kernels) return 0;
    std::lock_guard<std::mutex> turn(pool->threads.lock());
    std::atomic<int64_t> operations{0};
    pool->threads.parallel_for(iterations, 10000, [&](int, int64_t first, int64_t last) {
        float sink = 0.0f;
        operations += kernels->spin_fma(last - first, &sink);
    });
    return operations;
}

int64_t quire_measure_int8(quire_pool *pool, int32_t isa, int64_t iterations) {
    const quire::Kernels *kernels = quire::find_kernels(isa);
    if (!kernels) return 0;
    std::lock_guard<std::mutex> turn(pool->threads.lock());
    std::atomic<int64_t> operations{0};
    pool->threads.parallel_for(iterations, 10000, [&](int, int64_t first, int64_t last) {
        float sink = 0.0f;
        operations += kernels->integers.spin(last - first, &sink);
    });
    return operations;
}

int64_t quire_measure_bfloat16(quire_pool *pool, int32_t isa, int64_t iterations) {
    const quire::Kernels *kernels = quire::find_kernels(isa);
    if (!kernels || !kernels->bfloat16s.spin) return 0;
    std::lock_guard<std::mutex> turn(pool->threads.lock());
    std::atomic<int64_t> operations{0};
    pool->threads.parallel_for(iterations, 10000, [&](int, int64_t first, int64_t last) {
        float sink = 0.0f;
        operations += kernels->bfloat16s.spin(last - first, &sink);
    });
    return operations;
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
