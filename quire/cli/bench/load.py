"""Sends requests at the times an arrival process gives, at most so many at once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

__all__ = ["arrival_times", "send_all"]

Request = TypeVar("Request")
Result = TypeVar("Result")


def arrival_times(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """When each request arrives, in seconds from the start.

    rate: requests per second; infinite: all at once.  burstiness: the shape of the gamma
    distribution of the gaps; 1 is a Poisson process, less is burstier.  The times are stretched so
    that the last request arrives at count / rate exactly.
    """
    if math.isinf(rate):
        return [0.0] * count
    source = random.Random(seed)
    times, now = [], 0.0
    for _ in range(count):
        now += source.gammavariate(burstiness, 1.0 / (rate * burstiness))
        times.append(now)
    stretch = count / rate / now
    return [time * stretch for time in times]


async def send_all(
    requests: Sequence[Request],
    times: Sequence[float],
    max_concurrency: int | None,
    send: Callable[[Request], Awaitable[Result]],
    advance: Callable[[], object],
) -> list[Result]:
    """The result of every request, in order; `advance` is called as each one ends."""
    limit = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def one(request: Request, arrival: float) -> Result:
        await asyncio.sleep(max(0.0, start + arrival - loop.time()))
        async with limit:
            result = await send(request)
        advance()
        return result

    return await asyncio.gather(*map(one, requests, times))
