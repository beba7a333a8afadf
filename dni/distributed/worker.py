"""A stage's own process: what stands around the user's script.

A new Python needs two seconds until torch is imported, and neighbours would feel them after each
death. So a worker is not a new Python but a fork of its agent, which has imported torch and done
nothing with it: no threads, no device. Milliseconds after the fork the script runs as
``__main__``, with the arguments, the ``sys.path`` and the exit that ``python script.py`` gives
it.

Around it stands what no script has by itself: output to files, which cannot break when a reader
dies; a thread that shows a sign of life, and ends the worker if its agent has died; and the
traceback, as JSON, for the process that reports it.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dni.distributed.wire import WireError

__all__ = ["FAILED", "FATAL", "GRACE", "Failure", "Files", "Plan", "live", "read", "write"]

FATAL = (WireError, SyntaxError, NameError, ImportError)
"""What the next life would meet again: a peer of another model or version, a typing error."""
FAILED = 3
"""The exit code of an agent that has written down how its stage failed."""
GRACE = 30.0
"""Seconds from SIGTERM to SIGKILL: to finish a step and to write a checkpoint."""
NOT_A_RANK = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_SIGNALS_TO_HANDLE")
"""They describe the agent's own world of one: a stage that believed them would listen on TCP."""


class Files(NamedTuple):
    """Where a stage and those who look after it write."""

    output: Path
    """What the script prints, over all its lives."""
    errors: Path
    """What it prints as an error, and each restart."""
    status: Path
    """JSON from the script: how far it has come."""
    pulse: Path
    """JSON with the life and its process; touched as long as that is alive."""
    failure: Path
    """JSON that says how the last failed life ended."""
    log: Path
    """What the agent itself has to say."""


class Failure(NamedTuple):
    """How a life ended, if not well."""

    life: int
    time: float
    how: str
    """What follows "stage 1 ..."."""
    words: str = ""
    """The traceback, if it raised."""
    fatal: bool = False
    """Whether another life would end like this one."""
    excused: bool = False
    """Whether it ended because it was told to."""


class Plan(NamedTuple):
    """What the launcher tells agents and workers."""

    command: Sequence[str]
    module: bool
    stages: int
    max_restarts: int
    silence: float
    folder: str
    """A folder of this run alone, removed after it."""
    logs: str
    """The folder for the output: the same one, or one that stays."""
    launcher: int
    """The process of the launcher."""

    def files(self, stage: int) -> Files:
        """The files of one stage."""
        own, logs = Path(self.folder, f"stage{stage}"), Path(self.logs)
        return Files(
            output=logs / f"stage{stage}.out",
            errors=logs / f"stage{stage}.err",
            status=own / "status.json",
            pulse=own / "pulse.json",
            failure=own / "failure.json",
            log=own / "agent.log",
        )


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON; whoever reads meanwhile gets the old or the new content, never half of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content))
    draft.replace(path)


def read(path: Path) -> dict[str, Any]:
    """What was written; empty if there is nothing, or no JSON object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def live(plan: Plan, stage: int, life: int, agent: int) -> None:
    """Run the script; called in the fork, and whatever happens, the fork ends here."""
    files = plan.files(stage)
    done = threading.Event()
    os.setpgid(0, 0)  # what the script starts can be ended with it
    signal.signal(signal.SIGINT, _overheard)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.disable(logging.NOTSET)  # the agent had it off
    _write_to(files)
    os.environ.update(_environment(plan, stage, life))
    for name in NOT_A_RANK:
        os.environ.pop(name, None)
    write(files.pulse, {"life": life, "pid": os.getpid()})
    attendant = (files.pulse, plan.silence / 10, agent, done)
    threading.Thread(target=_attend, args=attendant, daemon=True).start()
    try:
        _run(plan.command, plan.module)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    except BaseException as error:
        how, words = f"raised {type(error).__name__}", _traceback(error)
        status = read(files.status)  # an error before the first step would come again
        useless = "clock" in status and status["clock"] == status.get("resumed")
        fatal = isinstance(error, FATAL) or useless
        failure = Failure(life, time.time(), how, words, fatal=fatal)
        write(files.failure, failure._asdict())
        sys.stderr.write(words)
        raise SystemExit(1) from None
    finally:
        _leave()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending anyway
        done.set()


def _overheard(number: int, frame: object) -> None:
    """Ignore the SIGINT that comes when the agent has died; the attendant sees to that."""


def _write_to(files: Files) -> None:
    """Send what is printed, by C code too, to the files, line by line."""
    for stream, path in ((sys.stdout, files.output), (sys.stderr, files.errors)):
        stream.flush()
        with open(path, "ab") as file:
            os.dup2(file.fileno(), stream.fileno())
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _environment(plan: Plan, stage: int, life: int) -> dict[str, str]:
    return {
        "DNI_STAGE": str(stage),
        "DNI_STAGES": str(plan.stages),
        "DNI_LIFE": str(life),
        "DNI_STORE": f"file://{plan.folder}/store",
        "DNI_STATUS": str(plan.files(stage).status),
        "TORCHELASTIC_RESTART_COUNT": str(life - 1),
    }


def _attend(pulse: Path, every: float, agent: int, done: threading.Event) -> None:
    """Show a sign of life while the agent lives; then stop, as a SIGTERM would."""
    while os.getppid() == agent:
        try:
            os.utime(pulse)
        except FileNotFoundError:
            break  # the run is over, and its folder gone
        time.sleep(min(every, 1.0))
    os.kill(os.getpid(), signal.SIGTERM)
    done.wait(GRACE)
    os.killpg(0, signal.SIGKILL)


def _run(command: Sequence[str], module: bool) -> None:
    """Run ``command`` as ``python script.py`` and ``python -m module`` do."""
    sys.argv[:] = command
    if module:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    else:
        if not getattr(sys.flags, "safe_path", False):  # from Python 3.11 on
            sys.path[0] = os.path.dirname(os.path.abspath(command[0]))
        runpy.run_path(command[0], run_name="__main__")


def _leave() -> None:
    """Join threads, then run ``atexit``: before 3.13, Python does neither for a fork."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()


def _traceback(error: BaseException) -> str:
    """The traceback from the script's first line on: what lies above that is ours."""
    place = error.__traceback__
    while place and place.tb_frame.f_globals.get("__name__") != "__main__":
        place = place.tb_next
    return "".join(traceback.format_exception(type(error), error, place))
