"""The agent of one stage: starts its process, watches it, and starts it again.

torchrun's agent restarts *all* of its workers when one fails, since ranks of one process group
cannot do without each other. Stages can, so each has an elastic agent of its own, with one
worker in a world of one. Its rendezvous is with nobody: no store on TCP, nothing that listens.

Elastic says how a worker died only if it does not start it again. But the user should read at
once why, and some deaths should not be repeated. So an elastic agent looks after a single life,
and the agent here decides on the next::

    launcher --- agent of stage 0 --- elastic agent --- life 1, life 2 ...
             --- agent of stage 1 --- elastic agent --- life 1

An agent forks its workers (:mod:`dni.distributed.worker`), so it must have no threads. Between
two looks at the worker, elastic asks whether others wait to join: there this agent does what has
to be done while a life lasts.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess

import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import (
    RendezvousGracefulExitError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
)
from torch.nn import Parameter
from torch.optim import SGD

from dni.distributed.worker import FAILED, GRACE, Failure, Plan, live, read, write

__all__ = ["Agent"]

INTERVAL = 0.02  # seconds between two looks: a look costs 0.1 ms


class Agent:
    """Looks after ``stage`` until it has ended well, or has failed once too often."""

    def __init__(self, plan: Plan, stage: int) -> None:
        self.plan = plan
        self.stage = stage
        self.files = plan.files(stage)
        self.process = os.getpid()
        self.stopping = False

    def run(self) -> bool:
        """Run the stage; return whether it ended well."""
        SGD([Parameter(torch.zeros(1))]).zero_grad()  # loads what workers would load, each time
        logging.disable()  # all is told here; and to log, torch imports its compiler
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        life = 1
        while (failure := self._failure(life)) is not None:
            if self.stopping or failure.fatal or life > self.plan.max_restarts:
                write(self.files.failure, failure._asdict())
                return False
            self._tell(failure)
            life += 1
        return True

    def _stop(self, number: int, frame: object) -> None:
        if os.getpid() != self.process:
            os._exit(128 + number)  # a fork of this process that has not got far
        self.stopping = True

    def _failure(self, life: int) -> Failure | None:
        """Have the stage live once; return how it failed, if it did."""
        watch = _Life(self)
        spec = WorkerSpec(
            role=f"stage{self.stage}",
            local_world_size=1,
            rdzv_handler=_Alone(watch.look),
            entrypoint=live,
            args=(self.plan, self.stage, life, self.process),
            max_restarts=0,
            monitor_interval=INTERVAL,
        )
        logs = DefaultLogsSpecs(log_dir=str(self.files.log.parent))  # os.devnull costs threads
        result: RunResult | None = LocalElasticAgent(spec, logs, start_method="fork").run()
        watch.clear()
        code = watch.exit_code() if result is None else 0  # None: elastic saw no end, but we did
        if result is not None and result.is_failed():
            code = result.failures[0].exitcode
        if code == 0:
            return self._too_early(life)
        said = read(self.files.failure)
        if said.get("life") == life:
            return Failure(**said)
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        excused = self.stopping and code in (-signal.SIGTERM, 128 + signal.SIGTERM)
        return Failure(life, time.time(), watch.reason or how, excused=excused)

    def _too_early(self, life: int) -> Failure | None:
        """The failure of a script that ends well, but in the middle of its stage's training."""
        if read(self.files.status).get("done", True):
            return None
        how = "ended before its train() was through: let that loop run out, or call stage.stop()"
        return Failure(life, time.time(), how, fatal=True)

    def _tell(self, failure: Failure) -> None:
        """Add one line to what the stage has printed as errors."""
        now = time.strftime("%H:%M:%S", time.localtime(failure.time))
        left = f"{failure.life} of {self.plan.max_restarts}"
        with open(self.files.errors, "a") as file:
            file.write(f"dni: stage {self.stage} {failure.how} at {now}; restarting ({left})\n")


class _Life:
    """Watches one worker: that it is not silent, and that it ends when it has to."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.worker: BaseProcess | None = None
        self.reason = ""
        self.gone = 0  # looks since the worker has gone
        self.deadline = float("inf")
        self.pulse = 0
        self.heard = time.monotonic()  # the file's own time would jump with the system's clock
        agent.files.pulse.touch()

    def look(self) -> None:
        """Called several times a second while elastic thinks that the worker lives."""
        if self.worker is None:
            self.worker = next(iter(multiprocessing.active_children()), None)
        if self.worker is None or not self.worker.is_alive():
            self.clear()
            self.gone += 1
            if self.gone > 2:  # after an os._exit(0) elastic waits for a return value
                raise RendezvousGracefulExitError
            return
        agent = self.agent
        agent.stopping |= os.getppid() != agent.plan.launcher
        now = time.monotonic()
        if agent.stopping and self.deadline == float("inf"):
            self.deadline = now + GRACE
            self.worker.terminate()
        if now > self.deadline:
            self._kill(f"did not end within {GRACE:g} s of SIGTERM and was killed")
        pulse = agent.files.pulse.stat().st_mtime_ns
        if pulse != self.pulse:
            self.pulse, self.heard = pulse, now
        elif now - self.heard > agent.plan.silence:
            self._kill(f"was silent for {agent.plan.silence:g} s and was killed")

    def _kill(self, reason: str) -> None:
        self.reason = self.reason or reason
        if self.worker is not None:
            self.worker.kill()

    def exit_code(self) -> int:
        """The worker's exit code; 0 if it left by ``os._exit(0)`` before the first look."""
        return 0 if self.worker is None else self.worker.exitcode or 0

    def clear(self) -> None:
        """Kill what the worker left behind: forks of it keep elastic from seeing its end."""
        if self.worker is not None and self.worker.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.worker.pid, signal.SIGKILL)


class _Alone(RendezvousHandler):
    """The rendezvous of an agent with nobody."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def get_backend(self) -> str:
        return "none"

    def get_run_id(self) -> str:
        return "dni"

    def next_rendezvous(self) -> RendezvousInfo:
        """A world of one, in the memory of this process."""
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("localhost", 0))

    def num_nodes_waiting(self) -> int:
        """None; the current life is looked after here."""
        self._look()
        return 0

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def shutdown(self) -> bool:
        return True


if __name__ == "__main__":
    words, number = sys.argv[1:]
    sys.exit(0 if Agent(Plan(**json.loads(words)), int(number)).run() else FAILED)
