"""The body of a step in pieces that a device does at one call each, recorded when first needed.

A step is padded to one of a few sizes.  What stands between ops that must read the host's arrays,
such as attention in plain torch, is a segment; the first step of a size runs as it is, the second
records the segments over tensors that stay where they are, and from then on these are replayed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from quire.backends.torch.calls import Call, Values, run_calls
from quire.backends.torch.devices import Device
from quire.backends.torch.fixed_step import FixedStep, WideRooms
from quire.backends.torch.graph_memory import GraphMemory
from quire.backends.torch.graphs import Recorder, Replay
from quire.backends.torch.step import Step

__all__ = ["CapturedSteps"]

logger = logging.getLogger(__name__)

LEAST_CALLS = 4
"""Fewer calls side by side are not worth a graph: reading and writing its borders costs as much."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Calls side by side that are captured together, or all of them not.

    inputs: values that earlier segments make.  outputs: those that later ones read, or the head.
    """

    calls: tuple[Call, ...]
    is_captured: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(slots=True)
class _Size:
    """A size of step: its tensors, and what replays each captured segment."""

    step: FixedStep
    replays: list[Replay | None]


class CapturedSteps:
    """Runs the body of steps of a Program.

    calls: the body's.  wanted: values that the head reads.  kind: of the steps; where each request
    has a single token, more bodies can be captured.  most_tokens: of a step.  end: no request has a
    token at this position.  memory: what graphs may take; where it is used up, sizes that were not
    captured are run as they are.  least_calls: of a segment that is captured.  idle: a step → one
    of as many tokens that are nobody's, which leaves nothing behind.
    num_graphs: how many were recorded.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        wanted: Collection[int],
        kind: str,
        most_tokens: int,
        end: int,
        recorder: Recorder,
        device: Device,
        memory: GraphMemory,
        least_calls: int = LEAST_CALLS,
        idle: Callable[[Step], Step] = lambda step: step,
    ) -> None:
        self.num_graphs = 0
        self._memory = memory
        self._rooms = WideRooms(most_tokens, end)
        self._segments = _segments(_runs(calls, {"always", kind}, least_calls), wanted)
        self._borders = _Borders(self._segments, wanted, most_tokens, device)
        self._recorder = recorder
        self._device = device
        self._idle = idle
        self._num_steps: Counter[int] = Counter()
        self._sizes: dict[int, _Size] = {}

    @property
    def is_of_use(self) -> bool:
        """Whether there is anything to capture."""
        return any(segment.is_captured for segment in self._segments)

    def run(self, step: Step) -> Values:
        """Compute the body; what the head reads of it, valid until the next step."""
        num_tokens = len(step.token_ids)
        self._num_steps[num_tokens] += 1
        size = self._sizes.get(num_tokens)
        if size is not None:
            size.step.load(step)
            return self._replay(size, step)
        if self._num_steps[num_tokens] > 1 and self._memory.has_room:
            try:
                return self._record(step)
            except RuntimeError as error:  # of torch, or of the driver, which has no class for it
                if "out of memory" not in str(error):
                    raise
                logger.warning("no memory to capture steps of %d tokens, or others", num_tokens)
                self._memory.close()
        values: Values = {}
        for segment in self._segments:
            run_calls(segment.calls, step, values)
        return values

    def _replay(self, size: _Size, step: Step) -> Values:
        for place, replay in enumerate(size.replays):
            if replay is None:
                self._compute(place, step)
            else:
                replay()
        return self._borders.left(len(step.token_ids))

    def _record(self, step: Step) -> Values:
        """Record each segment, then do what was recorded.

        Before, it is run for nobody, so that nothing is compiled while it is recorded: what a state
        takes in, it must take in once.
        """
        started, before = time.monotonic(), self._device.free_memory()
        size, idle = _Size(FixedStep.like(step, self._rooms), []), self._idle(step)
        for place, segment in enumerate(self._segments):
            if not segment.is_captured:
                self._compute(place, step)
                size.replays.append(None)
                continue
            size.step.load(idle)
            self._compute(place, size.step)
            size.step.forget_kept()
            replay = self._recorder.record(lambda at=place: self._compute(at, size.step))  # type: ignore[misc]
            size.step.load(step)
            replay()
            size.step.keep()
            self.num_graphs += 1
            size.replays.append(replay)
        self._sizes[len(step.token_ids)] = size
        after = self._device.free_memory()
        used = before[0] - after[0] if before is not None and after is not None else 0
        self._memory.note(used)
        logger.info(
            "captured steps of %d tokens: %d graphs, %.0f MiB more, %.0f of %s MiB used, %.2f s",
            len(step.token_ids), len(size.replays) - size.replays.count(None), used / 2**20,
            self._memory.used / 2**20, _mib(self._memory.planned), time.monotonic() - started,
        )  # fmt: skip
        if not self._memory.has_room:
            logger.warning(
                "captured steps have taken what was planned; other sizes run as they are"
            )
        return self._borders.left(len(step.token_ids))

    def _compute(self, place: int, step: Step) -> None:
        """Compute a segment from the borders to the borders."""
        segment, num_tokens = self._segments[place], len(step.token_ids)
        values = {each: self._borders.view(each, num_tokens) for each in segment.inputs}
        run_calls(segment.calls, step, values)
        for each in segment.outputs:
            self._borders.put(each, values[each], place)


class _Borders:
    """Where values stand that cross from one segment into another: always in the same place.

    Rooms are for the largest step; one whose value nobody reads any more takes in another value.
    """

    def __init__(
        self,
        segments: Sequence[_Segment],
        wanted: Collection[int],
        most_tokens: int,
        device: Device,
    ) -> None:
        self._most_tokens = most_tokens
        self._device = device.torch_device
        self._wanted = wanted
        self._last_read = {
            each: place for place, segment in enumerate(segments) for each in segment.inputs
        } | dict.fromkeys(wanted, len(segments))
        self._places: dict[int, tuple[torch.Tensor, torch.dtype]] = {}
        self._rooms: list[tuple[torch.Tensor, int]] = []  # and the last value's last reader

    def view(self, value: int, num_tokens: int) -> torch.Tensor:
        """A value of a step of so many tokens, [T, width]."""
        room, dtype = self._places[value]
        return room[:num_tokens].view(dtype)

    def put(self, value: int, tensor: torch.Tensor, writer: int) -> None:
        """Store a value [T, width] that a segment made; writer: the segment's place."""
        if value not in self._places:  # when the first size is recorded
            self._places[value] = self._take_room(value, tensor, writer), tensor.dtype
        self.view(value, len(tensor)).copy_(tensor)

    def left(self, num_tokens: int) -> Values:
        """The values that the head reads."""
        return {each: self.view(each, num_tokens) for each in self._wanted}

    def _take_room(self, value: int, tensor: torch.Tensor, writer: int) -> torch.Tensor:
        """Bytes [most tokens, bytes of a row]."""
        row_bytes, last_read = tensor.shape[1] * tensor.dtype.itemsize, self._last_read[value]
        for place, (room, busy_until) in enumerate(self._rooms):
            if busy_until < writer and room.shape[1] == row_bytes:
                self._rooms[place] = room, last_read
                return room
        shape = (self._most_tokens, row_bytes)
        room = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        self._rooms.append((room, last_read))
        return room


def _mib(planned: int | None) -> str:
    return "any" if planned is None else f"{planned / 2**20:.0f}"


def _runs(
    calls: Sequence[Call], captured: Collection[str], least_calls: int
) -> list[tuple[bool, tuple[Call, ...]]]:
    """Calls side by side that are captured, if they are enough, and those that are not."""
    marked: list[tuple[bool, Call]] = []
    for can_be, run in groupby(calls, lambda call: call.captured in captured):
        some = tuple(run)
        marked += [(can_be and len(some) >= least_calls, call) for call in some]
    return [
        (is_captured, tuple(call for _, call in run))
        for is_captured, run in groupby(marked, lambda each: each[0])
    ]


def _segments(
    runs: Sequence[tuple[bool, tuple[Call, ...]]], wanted: Collection[int]
) -> list[_Segment]:
    """Runs of calls with what crosses from one into another."""
    found: list[_Segment] = []
    later = set(wanted)
    for is_captured, some in reversed(runs):
        made = {each for call in some for each in call.outputs}
        read = {each for call in some for each in call.inputs} - made
        found.append(_Segment(some, is_captured, tuple(sorted(read)), tuple(sorted(made & later))))
        later = (later - made) | read
    return found[::-1]
