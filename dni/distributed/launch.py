"""Starts the stages of a network on one machine, and restarts each without the others.

::

    python -m dni.distributed.launch --stages 3 train.py --lr 0.1
    python -m dni.distributed.launch --stages 3 -m package.train --lr 0.1

All stages run the same script; the environment tells each of them which one it is:

=================  ==================================================================
``DNI_STAGE``      the stage, from 0
``DNI_STAGES``     how many there are
``DNI_LIFE``       1, and one more after each restart
``DNI_STORE``      ``file://`` and the path of the store where stages find each other
``DNI_STATUS``     the path of a JSON file to write, for those who watch
=================  ==================================================================

A stage that is to stop is sent a SIGTERM, and has 30 seconds. Nothing here listens on a port, and
nothing outlives the launcher, however it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from dni import _checks
from dni._checks.launch import StageFailed
from dni.distributed.signals import stopped_by_signals
from dni.distributed.worker import FAILED, GRACE, Failure, Plan, read

__all__ = ["StageFailed", "View", "launch", "main"]

View = Mapping[int, Mapping[str, Any]]
"""For each stage its ``life``, its ``pid``, and what it last wrote to ``DNI_STATUS``."""
TICK = 0.05  # seconds
FRAME = 4  # ticks from one call of ``watch`` to the next


def launch(
    command: Sequence[str],
    stages: int,
    *,
    module: bool = False,
    max_restarts: int = 3,
    silence: float = 10.0,
    log_dir: str | os.PathLike[str] | None = None,
    watch: Callable[[View], None] | None = None,
) -> None:
    """Run ``command`` as ``stages`` processes; return when all have ended well.

    A stage that dies or raises is started again, and the others are left alone. Errors that would
    come again end the run: a :class:`~dni.distributed.WireError`, a wrong name or import, whatever
    is raised between :func:`~dni.distributed.this_stage` and the first step.

    Args:
        command: a script, or with ``module`` the name of a module, and its arguments.
        stages: how many.
        module: whether the command is what follows ``python -m``.
        max_restarts: how often each stage is restarted before the run is given up.
        silence: seconds after which a stage that shows no sign of life (stopped, or swapped out;
            not one that waits) is killed and started again.
        log_dir: a folder in which the output of the stages is kept, as ``stage0.out`` and
            ``stage0.err``. The output is shown in any case.
        watch: called five times a second with a :data:`View`, to draw it.

    Raises:
        StageFailed: if a stage has not ended well, after all have ended.

    While this runs in the main thread, SIGINT and SIGTERM stop the stages.
    """
    _checks.launchable(stages, max_restarts, silence)
    _checks.startable(command, module)
    with tempfile.TemporaryDirectory(prefix="dni-", ignore_cleanup_errors=True) as folder:
        logs = os.path.abspath(folder if log_dir is None else log_dir)
        os.makedirs(logs, exist_ok=True)
        plan = Plan(list(command), module, stages, max_restarts, silence, folder, logs, os.getpid())
        _Launcher(plan, watch or (lambda view: None)).run()


class _Launcher:
    """The agents, what they and their stages say, and when they are to end."""

    def __init__(self, plan: Plan, watch: Callable[[View], None]) -> None:
        self.plan = plan
        self.watch = watch
        self.files = [plan.files(stage) for stage in range(plan.stages)]
        self.agents: list[subprocess.Popen[bytes]] = []
        self.view: dict[int, Mapping[str, Any]] = {}
        self.tails: list[_Tail] = []
        self.stopping = False
        self.deadline = float("inf")

    def run(self) -> None:
        ticks = 0
        with stopped_by_signals(self._stop):
            try:
                self._start()
                while self._look():
                    if ticks % FRAME == 0:
                        self._draw()
                    ticks += 1
            finally:
                self._stop()
                while self._look():
                    pass
                self._draw()
        failures = self._failures()
        if failures:
            raise _checks.stages_failed(failures)

    def _start(self) -> None:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        threads = str(max(1, cores // self.plan.stages))
        environment = {
            "OMP_NUM_THREADS": threads,
            **os.environ,
            "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGQUIT",  # the agent handles the others
        }
        for stage, files in enumerate(self.files):
            files.log.parent.mkdir()
            prefix = f"[stage {stage}] " if self.plan.stages > 1 else ""
            self.tails.append(_Tail(files.output, prefix, sys.stdout))
            self.tails.append(_Tail(files.errors, prefix, sys.stderr))
            agent = [sys.executable, "-m", "dni.distributed.agent"]
            with open(files.log, "wb") as log:
                self.agents.append(
                    subprocess.Popen(
                        [*agent, json.dumps(self.plan._asdict()), str(stage)],
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # Ctrl-C reaches the launcher only
                    )
                )

    def _stop(self) -> None:
        self.stopping = True

    def _look(self) -> bool:
        """Pass on what was printed, end what has to end; return whether there is more to come."""
        codes = [agent.poll() for agent in self.agents]
        for tail in self.tails:
            tail.forward()
        if all(code is not None for code in codes):
            for tail in self.tails:
                tail.forward(last=True)
            return False
        now = time.monotonic()
        self.stopping |= any(code not in (None, 0) for code in codes)
        if self.stopping and self.deadline == float("inf"):
            self.deadline = now + GRACE + 5  # agents need some of it themselves
            for agent in self.agents:
                agent.terminate()
        if now > self.deadline:
            for agent in self.agents:
                agent.kill()
        time.sleep(TICK)
        return True

    def _draw(self) -> None:
        for stage, files in enumerate(self.files):
            news = {**read(files.pulse), **read(files.status)}
            self.view[stage] = MappingProxyType(news or self.view.get(stage, {}))
        self.watch(MappingProxyType(self.view))

    def _failures(self) -> list[str]:
        """What went wrong, in order; stages that were told to end count only if no other failed."""
        found = []
        for stage, (agent, files) in enumerate(zip(self.agents, self.files, strict=True)):
            if agent.returncode == FAILED:
                failure = Failure(**read(files.failure))
            elif agent.returncode == -signal.SIGTERM and self.stopping:
                failure = Failure(0, time.time(), "was stopped before it began", excused=True)
            elif agent.returncode != 0:
                how = f"lost its agent (exit code {agent.returncode})"
                failure = Failure(0, time.time(), how, files.log.read_text(errors="replace"))
            else:
                continue
            found.append((failure.excused, failure.time, _described(stage, failure)))
        found.sort()
        return [words for excused, _, words in found if excused == found[0][0]]


def _described(stage: int, failure: Failure) -> str:
    moment = time.strftime("%H:%M:%S", time.localtime(failure.time))
    life = f" in life {failure.life}" if failure.life else ""
    return f"stage {stage} {failure.how} at {moment}{life}.\n{failure.words}".rstrip()


class _Tail:
    """Shows what is added to a file, in whole lines."""

    def __init__(self, path: Path, prefix: str, to: TextIO) -> None:
        path.touch()
        self.path, self.prefix, self.to = path, prefix, to
        self.place = path.stat().st_size
        self.rest = b""

    def forward(self, last: bool = False) -> None:
        with open(self.path, "rb") as file:
            file.seek(self.place)
            new = file.read()
        self.place += len(new)
        whole, end, self.rest = (self.rest + new).rpartition(b"\n")
        if last and self.rest:
            whole, end, self.rest = whole + end + self.rest, b"\n", b""
        if end:
            lines = whole.decode(errors="replace").split("\n")
            self.to.write("".join(f"{self.prefix}{line}\n" for line in lines))
            self.to.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dni.distributed.launch",
        description="Start the stages of a network on this machine, each restarted by itself.",
    )
    add = parser.add_argument
    add("--stages", type=int, required=True, help="how many processes")
    add("--max-restarts", type=int, default=3, help="of each stage (default: %(default)s)")
    add("--silence", type=float, default=10.0, help="seconds until a stage without a sign of "
        "life is replaced (default: %(default)s)")  # fmt: skip
    add("--log-dir", help="where the output of each stage stays")
    add("-m", "--module", action="store_true", help="start a module instead of a script")
    add("script", help="what to start")
    add("arguments", nargs=argparse.REMAINDER, help="its own")
    said = vars(parser.parse_args(arguments))
    command = [said.pop("script"), *said.pop("arguments")]
    try:
        launch(command, **said)
    except (StageFailed, ValueError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
