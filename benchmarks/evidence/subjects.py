"""What is trained, by name: networks on images, and recurrent tasks in windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.evidence import images, sequences
from benchmarks.evidence.arms import ALL, ARMS
from benchmarks.evidence.networks import NETWORKS
from benchmarks.evidence.sequences import PER_CENT
from examples.data import name_of

if TYPE_CHECKING:
    from benchmarks.evidence.run import Run


class Subject(NamedTuple):
    """By which arms it can be trained and for how long, on data of which name; told in a unit."""

    arms: Mapping[str, Any]
    told: Sequence[str]  # the arms of the table
    steps: int
    batch: int
    data: Callable[[str | None], str]
    unit: str
    learn: Callable[[Run, Any, str | None], dict[str, Any]]


SUBJECTS = {
    name: Subject(ALL, list(ARMS), plan.steps, plan.batch, name_of, PER_CENT, images.learn)
    for name, plan in NETWORKS.items()
} | {
    name: Subject(
        arms, list(sequences.ARMS), task.steps(window), task.batch, task.data, task.unit, task.learn
    )
    for name, task, window, arms in sequences.networks()
}
