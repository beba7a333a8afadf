"""What the launcher may be asked to do, and what it says when a stage has failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import Any

from dni._checks.words import as_number, is_integer_from


class StageFailed(RuntimeError):  # noqa: N818 - says what happened
    """A stage did not end well; the text has every traceback, the first cause first."""


LAUNCH = "dni.distributed.launch"


def launchable(stages: Any, max_restarts: Any, silence: Any) -> None:
    if not is_integer_from(1, stages):
        raise ValueError(f"{LAUNCH}: expected stages to be a positive integer, got {stages!r}.")
    if not is_integer_from(0, max_restarts):
        raise ValueError(
            f"{LAUNCH}: expected max_restarts to be a number from 0 on, got {max_restarts!r}."
        )
    if not 0.1 <= as_number("silence", silence, LAUNCH) < float("inf"):
        raise ValueError(f"{LAUNCH}: expected silence to be 0.1 seconds or more, got {silence!r}.")


def startable(command: Sequence[str], module: bool) -> None:
    what = "module" if module else "script"
    if isinstance(command, str) or not all(isinstance(word, str) for word in command):
        raise TypeError(
            f"{LAUNCH}: expected command to be a list of strings, the {what} first, got "
            f"{command!r}."
        )
    if not command:
        raise ValueError(f"{LAUNCH}: expected a {what} to start, got an empty command.")
    if module:
        package = command[0].partition(".")[0]
        if PathFinder.find_spec(package, [os.getcwd(), *sys.path]) is None:
            raise ModuleNotFoundError(
                f"{LAUNCH}: expected a module to start, found none called {package!r}. Start "
                "from the folder that has it, or install it."
            )
    elif not os.path.isfile(command[0]):
        raise FileNotFoundError(
            f"{LAUNCH}: expected a script to start, found no file {command[0]!r}. A module needs "
            "-m (module=True)."
        )


def stages_failed(failures: Sequence[str]) -> StageFailed:
    """The error that lists ``failures``, in the order in which they happened."""
    first, *others = failures
    words = [f"{LAUNCH}: {first}", *(f"Then {other}" for other in others)]
    return StageFailed("\n\n".join(words))
