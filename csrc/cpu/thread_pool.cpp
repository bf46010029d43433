#include "thread_pool.h"

#include <stdlib.h>

#include <chrono>
#include <new>

#include "quire.h"

#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace quire {
namespace {

constexpr auto kSpin = std::chrono::microseconds(30);
constexpr auto kYield = std::chrono::microseconds(100);
constexpr int kPausesPerLook = 16;
constexpr int64_t kMostChunks = 0xffff;

uint64_t share_of(uint32_t job, int64_t first, int64_t last) {
    return uint64_t(job) << 32 | uint64_t(first) << 16 | uint64_t(last);
}

void pause() {
#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__) && !defined(_MSC_VER)
    asm volatile("yield");
#else
    std::this_thread::yield();
#endif
}

int64_t process_id() {
#if defined(_WIN32)
    return 0;
#else
    return getpid();
#endif
}

// Waits until done() holds: spins, then yields.  False when it took longer than the limit.
template <class Done>
bool spin_until(Done done, std::chrono::microseconds limit) {
    for (int i = 0; i < 64; i++) {
        if (done()) return true;
        pause();
    }
    const auto start = std::chrono::steady_clock::now();
    while (true) {
        for (int i = 0; i < kPausesPerLook; i++) {
            if (done()) return true;
            pause();
        }
        const auto spent = std::chrono::steady_clock::now() - start;
        if (spent > limit) return false;
        if (spent > kSpin) std::this_thread::yield();
    }
}

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : shares_(num_threads < 1 ? 1 : num_threads),
      num_threads_(int(shares_.size())),
      owner_(process_id()) {
    try {
        threads_.reserve(num_threads_ - 1);
        for (int thread = 1; thread < num_threads_; thread++) {
            threads_.emplace_back([this, thread] { work(thread); });
        }
    } catch (...) {  // no memory, or the system gives no more threads
        join_threads();
        throw;
    }
}

ThreadPool::~ThreadPool() {
    join_threads();
    free(scratch_.allocated);
    free(shared_.allocated);
}

bool ThreadPool::is_forked() const {
    return owner_ != process_id();
}

void ThreadPool::join_threads() {
    {
        std::lock_guard<std::mutex> hold(sleep_);
        stop_.store(true);
    }
    wake_.notify_all();
    for (std::thread &thread : threads_) thread.join();
}

bool ThreadPool::reserve_scratch(size_t bytes) {
    if (bytes <= scratch_bytes_) return true;
    const size_t rounded = (bytes + 4095) / 4096 * 4096 + 192;  // threads differ in their low bits
    if (!scratch_.allocate(rounded * num_threads_)) return false;
    scratch_bytes_ = rounded;
    return true;
}

bool ThreadPool::reserve_shared(size_t bytes) {
    if (bytes <= shared_bytes_) return true;
    if (!shared_.allocate(bytes)) return false;
    shared_bytes_ = bytes;
    return true;
}

bool ThreadPool::Memory::allocate(size_t bytes) {
    void *grown = malloc(bytes + 64);
    if (!grown) return false;
    free(allocated);
    allocated = grown;
    data = static_cast<char *>(grown) + (64 - reinterpret_cast<uintptr_t>(grown) % 64) % 64;
    return true;
}

void ThreadPool::parallel_for(int64_t num_units, int64_t grain, Function fn, void *context) {
    if (num_units <= 0) return;
    if (grain < 1) grain = 1;
    if (num_threads_ == 1 || num_units <= grain) return fn(context, 0, 0, num_units);
    if ((num_units + grain - 1) / grain > kMostChunks) grain = num_units / kMostChunks + 1;
    const int64_t num_chunks = (num_units + grain - 1) / grain;

    // All shares of the last job are empty, so nobody takes a chunk between its fields and these.
    const uint32_t job = job_.load(std::memory_order_relaxed) + 1;
    fn_.store(fn, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    num_units_.store(num_units, std::memory_order_relaxed);
    grain_.store(grain, std::memory_order_relaxed);
    chunks_done_.store(0, std::memory_order_relaxed);
    deal(job, num_chunks);
    job_.store(job);
    if (sleepers_.load() > 0) {
        {
            std::lock_guard<std::mutex> hold(sleep_);
        }
        wake_.notify_all();
    }

    take_part(job, 0);
    const auto done = [&] { return chunks_done_.load(std::memory_order_acquire) == num_chunks; };
    while (!spin_until(done, kYield)) {
    }
}

// The caller begins first, so where shares differ the first ones are larger.
void ThreadPool::deal(uint32_t job, int64_t num_chunks) {
    const auto first = [&](int64_t thread) {
        return (num_chunks * thread + num_threads_ - 1) / num_threads_;
    };
    for (int thread = 0; thread < num_threads_; thread++) {
        shares_[thread].left.store(share_of(job, first(thread), first(thread + 1)),
                                   std::memory_order_release);
    }
}

// A chunk of the job, or -1: none is left here, or the job is over.
int64_t ThreadPool::Share::take(uint32_t job, bool from_front) {
    uint64_t now = left.load(std::memory_order_acquire);
    while (true) {
        const int64_t first = now >> 16 & 0xffff, last = now & 0xffff;
        if (uint32_t(now >> 32) != job || first == last) return -1;
        const uint64_t rest =
            from_front ? share_of(job, first + 1, last) : share_of(job, first, last - 1);
        if (left.compare_exchange_weak(now, rest, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
            return from_front ? first : last - 1;
        }
    }
}

void ThreadPool::take_part(uint32_t job, int thread) {
    const Function fn = fn_.load(std::memory_order_relaxed);
    void *context = context_.load(std::memory_order_relaxed);
    const int64_t num_units = num_units_.load(std::memory_order_relaxed);
    const int64_t grain = grain_.load(std::memory_order_relaxed);
    int64_t done = 0;
    for (int i = 0; i < num_threads_; i++) {
        Share &share = shares_[(thread + i) % num_threads_];
        for (int64_t chunk; (chunk = share.take(job, i == 0)) >= 0; done++) {
            const int64_t first = chunk * grain;
            fn(context, thread, first, first + grain < num_units ? first + grain : num_units);
        }
    }
    if (done) chunks_done_.fetch_add(done, std::memory_order_release);
}

bool ThreadPool::wait_for_job(uint32_t seen) {
    const auto ready = [&] { return job_.load() != seen || stop_.load(std::memory_order_relaxed); };
    if (!spin_until(ready, kYield)) {
        std::unique_lock<std::mutex> hold(sleep_);
        sleepers_.fetch_add(1);
        wake_.wait(hold, ready);
        sleepers_.fetch_sub(1);
    }
    return !stop_.load(std::memory_order_relaxed);
}

void ThreadPool::work(int thread) {
    uint32_t seen = 0;
    while (wait_for_job(seen)) {
        seen = job_.load(std::memory_order_acquire);
        take_part(seen, thread);
    }
}

}  // namespace quire

quire_pool *quire_pool_create(int32_t num_threads) {
    try {
        return new quire_pool(num_threads);
    } catch (...) {  // no memory, or the system gives no more threads
        return nullptr;
    }
}

void quire_pool_destroy(quire_pool *pool) {
    // In a forked child there are no threads to join, nor will they ever leave their locks: let it
    // be.
    if (pool && !pool->threads.is_forked()) delete pool;
}
