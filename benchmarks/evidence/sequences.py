"""The recurrent tasks: examples that train in windows, by the length of the window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from examples import recurrent
from examples.copy_task import main as copy_task
from examples.data import load as load_images
from examples.data import name_of
from examples.penn_treebank import main as penn_treebank
from examples.row_mnist import main as row_mnist
from examples.text import load as load_text
from examples.text import name_of as text_name_of

if TYPE_CHECKING:
    from benchmarks.evidence.run import Run

PER_CENT, LONGEST, BITS = "test error, %", "longest solved", "bits per character"
FULL = 10_000  # a window that is as long as any sequence


@dataclass
class Arm(recurrent.Arm):
    """An example's flags; ``each_window``: a step of the optimiser after each window."""

    window: int = FULL
    each_window: bool = False


def rows(run: Run, arm: Arm, source: str | None) -> dict[str, Any]:
    """Digits row by row."""
    images = load_images(source)
    outcome = row_mnist.train(arm, images, run.steps, run.batch, run.seed, arm.each_window)
    cosines = {step: measured.cosine for step, measured in outcome.cuts.items()}
    return {"score": outcome.test_error, "curve": outcome.curve, "cosines": cosines}


def copy(run: Run, arm: Arm, source: str | None) -> dict[str, Any]:
    """Copy a sequence after its end."""
    outcome = copy_task.train(arm, run.steps, run.batch, run.seed)
    cosines = {} if outcome.cosine is None else {"interface": outcome.cosine}
    return {"score": outcome.solved, "curve": outcome.curve, "cosines": cosines}


def penn(run: Run, arm: Arm, source: str | None) -> dict[str, Any]:
    """The next character: of the test text at the best look at another, whose curve this has."""
    flags = penn_treebank.options().parse_args([])
    vars(flags).update(asdict(arm), batch=run.batch, seed=run.seed, steps=run.steps)
    model = penn_treebank.Run(load_text(source, "char"), flags)
    bits = penn_treebank.train(model, run.steps, max(1, run.steps // 24)).bits
    return {"score": bits, "curve": model.curve, "cosines": {}}


class Task(NamedTuple):
    """An example: what all its arms have in common, how one is trained, what is told of it."""

    base: Arm
    windows: tuple[int, ...]
    steps: Callable[[int], int]  # for a window
    batch: int
    learn: Callable[[Run, Arm, str | None], dict[str, Any]]
    data: Callable[[str | None], str]  # its name
    unit: str
    tried: dict[str, dict[str, Any]]  # beside the arms of all tasks


ARMS: dict[str, dict[str, Any]] = {
    "BPTT": {},
    "DNI": {"dni": True},
    "DNI + aux": {"dni": True, "aux": 0.1},
    "cDNI": {"dni": True, "context": True},
    "cDNI + aux": {"dni": True, "context": True, "aux": 0.1},
}
"""What sets an arm apart from its task's base."""

TRIALS: dict[str, dict[str, Any]] = {
    f"cDNI {name}": ARMS["cDNI"] | change
    for name, change in {
        "aux 0.01": {"aux": 0.01},
        "aux 1": {"aux": 1.0},
        "uncentred": {"centered": False},
        "raw": {"normalize": False},
        "linear": {"hidden": 0},
        "hidden 128": {"hidden": 128},
        "3e-4": {"synthesizer_lr": 3e-4},
        "3e-3": {"synthesizer_lr": 3e-3},
        "1e-2": {"synthesizer_lr": 1e-2},
        "half": {"factor": 0.5},
        "each window": {"each_window": True},
    }.items()
} | {"DNI uncentred": ARMS["DNI"] | {"centered": False}}
"""What was tried, on the digits."""

TASKS = {
    "rows": Task(
        Arm(hidden=512),
        (1, 2, 7, 14, FULL),
        lambda window: 1200,
        100,
        rows,
        name_of,
        PER_CENT,
        TRIALS,
    ),
    "copy": Task(
        Arm(lr=2e-3, synthesizer_lr=3e-3),
        (2, 3, 4, 5, FULL),
        lambda window: 10_000,
        32,
        copy,
        lambda source: "made",
        LONGEST,
        {},
    ),
    "penn": Task(
        Arm(hidden=512, synthesizer_lr=3e-4),
        (5, 8),
        lambda window: 150_000 // window,
        32,
        penn,
        text_name_of,
        BITS,
        {},
    ),
}


def networks() -> Iterator[tuple[str, Task, int, dict[str, Arm]]]:
    """Each task at each length of its windows, with its arms; its bare name is the full unroll."""
    for name, task in TASKS.items():
        for window in task.windows:
            changes = {"BPTT": {}} if window == FULL else ARMS | task.tried
            made = {key: replace(task.base, window=window, **new) for key, new in changes.items()}
            yield name if window == FULL else f"{name}{window}", task, window, made
