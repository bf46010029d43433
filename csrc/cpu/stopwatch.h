// Adds the time it lives to a count of nanoseconds, for a caller who wants to know; else nothing.
#ifndef QUIRE_STOPWATCH_H
#define QUIRE_STOPWATCH_H

#include <stdint.h>

#include <chrono>

namespace quire {

class Stopwatch {
  public:
    explicit Stopwatch(int64_t *nanoseconds) : nanoseconds_(nanoseconds) {
        if (nanoseconds_) start_ = Clock::now();
    }
    ~Stopwatch() {
        if (nanoseconds_) {
            const auto passed = Clock::now() - start_;
            *nanoseconds_ += std::chrono::duration_cast<std::chrono::nanoseconds>(passed).count();
        }
    }
    Stopwatch(const Stopwatch &) = delete;
    Stopwatch &operator=(const Stopwatch &) = delete;

  private:
    using Clock = std::chrono::steady_clock;
    int64_t *nanoseconds_;
    Clock::time_point start_;
};

}  // namespace quire

#endif
