// Runs random jobs: argv[1] threads, argv[2] jobs.  Fails if a unit of any is not done exactly once.
#include "thread_pool.h"

#include <stdio.h>
#include <stdlib.h>

#include <random>

int main(int, char **argv) {
    const int num_threads = atoi(argv[1]), num_jobs = atoi(argv[2]);
    quire::ThreadPool pool(num_threads);
    std::mt19937 random(num_threads);
    std::vector<int> times(80000);  // not atomic: a unit has one thread
    for (int job = 0; job < num_jobs; job++) {
        const int64_t num_units = random() % (job % 50 ? 200 : 80000), grain = random() % 7;
        pool.parallel_for(num_units, grain, [&](int thread, int64_t first, int64_t last) {
            if (thread < 0 || thread >= num_threads) abort();
            for (int64_t unit = first; unit < last; unit++) times[unit]++;
        });
        for (int64_t unit = 0; unit < num_units; unit++) {
            if (times[unit] != 1) {
                printf("job %d, unit %d: done %d times\n", job, int(unit), times[unit]);
                return 1;
            }
            times[unit] = 0;
        }
    }
    return 0;
}
