"""The thread pool: results under stress, no CPU time when idle, life and death."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.errors import ConfigError
from tests.native.one_op import add_part, run


def product(pool, x, weight):
    op = c.Op(kind=c.OP_LINEAR)
    add_part(op, weight, c.F32)
    return run(pool, library.best_isa(), op, [x], [len(weight)])[0]


def test_pools_come_and_go():
    for n in [1, 2, 3, 8] * 25:
        with library.ThreadPool(n) as pool:
            assert library.load().quire_measure_barriers(pool.handle, 3) == 3


def test_a_pool_that_was_never_used_closes():
    for _ in range(200):
        library.ThreadPool(4).close()


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_many_small_jobs_on_more_threads_than_cores(threads, rng):
    x = rng.standard_normal((3, 64)).astype(np.float32)
    weight = rng.standard_normal((400, 64)).astype(np.float32)
    with library.ThreadPool(1) as pool:
        expected = product(pool, x, weight)
    with library.ThreadPool(threads) as pool:
        for i in range(300):
            np.testing.assert_array_equal(product(pool, x, weight), expected)
            if i % 50 == 0:
                time.sleep(0.002)  # long enough for the threads to fall asleep


def test_callers_of_one_pool_take_turns(pool, rng):
    x = rng.standard_normal((8, 512)).astype(np.float32)  # long enough for calls to overlap
    weights = [rng.standard_normal((1500 + i, 512)).astype(np.float32) for i in range(4)]
    expected = [product(pool, x, weight) for weight in weights]
    wrong = []

    def work(i):
        for _ in range(20):
            if not (product(pool, x, weights[i]) == expected[i]).all():
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_idle_pool_uses_no_cpu_time():
    with library.ThreadPool(8) as pool:
        library.load().quire_measure_barriers(pool.handle, 10)
        time.sleep(0.02)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.01


def test_threads_wake_up_again():
    with library.ThreadPool(3) as pool:
        for _ in range(20):
            time.sleep(0.003)
            assert library.load().quire_measure_barriers(pool.handle, 2) == 2


def test_a_forked_child_works_alone_and_ends(rng):
    x = rng.standard_normal((3, 64)).astype(np.float32)
    weight = rng.standard_normal((400, 64)).astype(np.float32)
    with library.ThreadPool(2) as pool:
        expected = product(pool, x, weight)
        time.sleep(0.01)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs must not outlive the test
            same = (product(pool, x, weight) == expected).all()
            pool.close()
            os._exit(0 if same else 1)
        _, status = os.waitpid(child, 0)
    assert status == 0


def test_close_twice_and_refuse_nonsense():
    pool = library.ThreadPool(2)
    pool.close()
    pool.close()
    with pytest.raises(ConfigError, match="at least 1"):
        library.ThreadPool(0)
