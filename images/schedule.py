"""When a stage works: schedules of pipelines and of decoupled stages, one event at a time.

Times are in forward passes of a micro-batch through one stage. A backward pass takes two, a batch
that is not divided as long as its micro-batches together; what travels takes none.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.stages import model

BACKWARD = 2.0
KINDS = {"F": "forward", "B": "backward"}


class Work(NamedTuple):
    """One forward or backward pass of one stage."""

    stage: int
    kind: str  # forward or backward
    batch: int
    part: int  # which micro-batch
    start: float
    end: float


def one_forward_one_backward(stages: int, parts: int, batches: int) -> list[Work]:
    """1F1B: a warm-up, forward and backward in turn, a drain; a step of the optimiser after each.

    A stage goes on as soon as what it needs is there.
    """
    queues = [
        [
            (KINDS[task], batch, part)
            for batch in range(batches)
            for task, part in model.one_forward_one_backward(k, stages, parts)
        ]
        for k in range(stages)
    ]
    done: dict[tuple[int, str, int, int], Work] = {}
    while any(queues):
        for stage, queue in enumerate(queues):
            if not queue:
                continue
            kind, batch, part = queue[0]
            source: tuple[int, str, int, int] | None = (stage, "forward", batch, part)
            if kind == "forward":
                source = (stage - 1, kind, batch, part) if stage else None
            elif stage + 1 < stages:
                source = (stage + 1, kind, batch, part)
            if source is not None and source not in done:
                continue
            ready = done[source].end if source else 0.0
            free = max((work.end for work in done.values() if work.stage == stage), default=0.0)
            start = max(ready, free)
            end = start + (1 if kind == "forward" else BACKWARD)
            done[stage, kind, batch, part] = Work(stage, kind, batch, part, start, end)
            del queue[0]
    return list(done.values())


def decoupled(stages: int, parts: int, until: float) -> list[Work]:
    """Each stage: a batch forward, its own backward pass at once, the next batch.

    A batch is as large as ``parts`` micro-batches; nothing that starts after ``until`` is there.
    """
    work: list[Work] = []
    arrivals = [0.0]  # of the batches that the stage before has sent; a first one reads ahead
    for stage in range(stages):
        free, sent, batch = 0.0, [], 0
        while (start := max(free, arrivals[batch] if batch < len(arrivals) else until)) < until:
            middle, free = start + parts, start + parts * (1 + BACKWARD)
            work.append(Work(stage, "forward", batch, 0, start, middle))
            work.append(Work(stage, "backward", batch, 0, middle, free))
            sent.append(middle)
            batch += 1
            if not stage:
                arrivals.append(0.0)
        arrivals = sent
    return [one for one in work if one.start < until]


def idle(work: list[Work], stages: int, until: float) -> float:
    """The share of the time before ``until`` in which stages do nothing."""
    busy = sum(min(one.end, until) - one.start for one in work if one.start < until)
    return 1 - busy / (stages * until)
