// A persistent pool of threads that the caller of a job joins.
//
// A job is a range of units cut into chunks of `grain`, of which each thread gets a share: chunks
// side by side, so that its weights are one stream of memory.  It takes them from the front, then
// what is left at the back of the others' shares.  The caller never waits for a thread that took
// nothing, so a job on a machine whose cores are busy is as fast as the caller alone.  Idle threads
// spin for some microseconds, then yield, then sleep: an idle pool uses no CPU time.
//
// A child process made by fork() has no pool threads: a pool made before runs all work in its
// caller.
#ifndef QUIRE_THREAD_POOL_H
#define QUIRE_THREAD_POOL_H

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace quire {

class ThreadPool {
  public:
    // fn(context, thread, first, last): does the units [first, last).
    using Function = void (*)(void *context, int thread, int64_t first, int64_t last);

    explicit ThreadPool(int num_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    int num_threads() const { return num_threads_; }
    bool is_forked() const;

    // Runs fn over [0, num_units); returns when all of it is done.  Only under the lock.
    void parallel_for(int64_t num_units, int64_t grain, Function fn, void *context);

    // Calls body(thread, first, last) in the same way.
    template <class Body>
    void parallel_for(int64_t num_units, int64_t grain, Body body) {
        parallel_for(
            num_units, grain,
            [](void *context, int thread, int64_t first, int64_t last) {
                (*static_cast<Body *>(context))(thread, first, last);
            },
            &body);
    }

    // Makes sure that each thread has that much scratch memory; false: no memory.
    bool reserve_scratch(size_t bytes);
    char *scratch(int thread) const { return scratch_.data + thread * scratch_bytes_; }

    // The same for memory that all threads share.
    bool reserve_shared(size_t bytes);
    char *shared() const { return shared_.data; }

    // Two callers of one pool take turns.
    std::mutex &lock() { return callers_; }

  private:
    void join_threads();
    void work(int thread);
    bool wait_for_job(uint32_t seen);
    void deal(uint32_t job, int64_t num_chunks);
    void take_part(uint32_t job, int thread);

    // What is left of a thread's chunks, and of which job: so a late thread can only ever take a
    // chunk of the job whose fields it has read.  In a cache line of its own.
    struct alignas(64) Share {
        std::atomic<uint64_t> left{0};

        int64_t take(uint32_t job, bool from_front);
    };

    std::vector<Share> shares_;
    alignas(64) std::atomic<uint32_t> job_{0};
    std::atomic<Function> fn_{nullptr};
    std::atomic<void *> context_{nullptr};
    std::atomic<int64_t> num_units_{0}, grain_{1};
    alignas(64) std::atomic<int64_t> chunks_done_{0};

    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    std::mutex sleep_, callers_;
    std::condition_variable wake_;

    int num_threads_;
    int64_t owner_;
    struct Memory {
        void *allocated = nullptr;
        char *data = nullptr;  // aligned to a cache line
        bool allocate(size_t bytes);
    };

    Memory scratch_, shared_;
    size_t scratch_bytes_ = 0, shared_bytes_ = 0;
    std::vector<std::thread> threads_;
};

}  // namespace quire

struct quire_pool {
    explicit quire_pool(int num_threads) : threads(num_threads) {}
    quire::ThreadPool threads;
};

#endif
