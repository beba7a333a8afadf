"""A stage: one part of a network, which trains in a process of its own.

A training step has three phases, so that stages can also take turns within one process: every stage
*advances* (forward, and back from a synthetic gradient or the loss), then every stage *learns* from
what came back and steps, then, in lock-step, every stage *hears* what its neighbours have learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks, _trees
from dni.contexts import synthesizer_context
from dni.distributed.checkpoints import Checkpoints
from dni.distributed.ends import Batch, EndA, EndB, Feed
from dni.distributed.reading import Reading
from dni.distributed.signals import stopped_by_signals
from dni.distributed.status import Status
from dni.parameters import base_parameters

__all__ = ["Stage", "take_turns"]

Optimizer = Callable[[list[nn.Parameter], list[nn.Parameter]], torch.optim.Optimizer]


class Stage:
    """One part of a network, its optimiser, and its ends of the edges to its neighbours.

    Args:
        part: any module.
        optimizer: a function that makes an optimiser from two lists: the part's parameters, and
            those of the synthesizers that learn here, which often want another rate.
        loss: for the last stage: ``loss(output, target)``, a scalar.
        upstream: end B of the edge to the stage before; the first has none.
        downstream: end A of the edge to the next stage; the last has none.
        checkpoints: where to save the stage's state, and where to resume from.
        every: how many batches lie between two checkpoints.
        accumulate: how many batches make one step of the optimiser; the loss is divided by it. A
            stage holds the activations of one batch at a time, so small batches save memory.

    Attributes:
        clock: batches trained on, including those of former lives but not rehearsed ones.
        heeds_signals: whether SIGINT and SIGTERM call :meth:`stop` during training; a second
            signal interrupts.
        rehearsed: batches trained on while a neighbour was away, in addition to their regular
            turn before or after that.
        status: how the stage is doing.

    Example:
        >>> def adam(network, synthesizers):
        ...     return torch.optim.Adam([*network, *synthesizers])
        >>> a, b = dni.distributed.in_process()
        >>> interface = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=8))
        >>> first = dni.distributed.Stage(
        ...     torch.nn.Linear(4, 8), adam, downstream=dni.distributed.UpdateA(a, interface)
        ... )
        >>> last = dni.distributed.Stage(
        ...     torch.nn.Linear(8, 3),
        ...     adam,
        ...     upstream=dni.distributed.UpdateB(b),
        ...     loss=torch.nn.functional.cross_entropy,
        ... )
        >>> x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
        >>> dni.distributed.take_turns([first, last], x, y)
        >>> first.clock, last.clock
        (1, 1)
    """

    def __init__(
        self,
        part: nn.Module,
        optimizer: Optimizer,
        *,
        loss: Callable[[Any, Any], Tensor] | None = None,
        upstream: EndB | None = None,
        downstream: EndA | None = None,
        checkpoints: Checkpoints | None = None,
        every: int = 100,
        accumulate: int = 1,
    ) -> None:
        who = type(self).__name__
        _checks.stage_is_whole(part, loss, upstream, downstream)
        _checks.knows_input(isinstance(upstream, Feed), downstream)
        self.part, self.loss = part, loss
        self.upstream, self.downstream = upstream, downstream
        self.ends = [end for end in (downstream, upstream) if end is not None]
        self.checkpoints = checkpoints
        self.accumulate = _checks.count("accumulate", accumulate, 1, who)
        self.every = _checks.count("every", every, 1, who)
        trained = [parameter for end in self.ends for one in end.trained()
                   for parameter in one.parameters()]  # fmt: skip
        self.optimizer = optimizer(base_parameters(part), trained)
        self.clock = 0
        self.rehearsed = 0
        self.stopping = False
        self._fresh = True  # whether the current batch is not a rehearsal
        self._waiting = 0  # batches whose gradients the optimiser has not used yet
        self.heeds_signals = False
        self._trained = self._asked = False
        self.status = Status(self)
        self._resume()

    @property
    def reads(self) -> bool:
        """Whether this stage reads the data itself, and does not get it from the stage before."""
        return not isinstance(self.upstream, Feed)

    def train(self, batches: Iterable[Sequence[Any]] | None = None) -> Iterator[int]:
        """Train until the data end, or :meth:`stop` is called; then finish, stage after stage.

        Args:
            batches: ``(input, target)`` or ``(input, target, context)`` each; used only if the
                stage :attr:`reads`. After a restart, ``clock`` says from which batch to go on.

        Yields:
            the clock, after each batch. To end early, call :meth:`stop` and let the loop run out,
            so that the later stages are told. A stage that leaves by ``break`` just vanishes.
        """
        _checks.has_data(batches is not None or not self.reads)
        _checks.trains_once(self._trained)
        self._trained = True
        feed = self.feed(() if batches is None else batches)
        try:
            with stopped_by_signals(self._signalled) if self.heeds_signals else nullcontext():
                yield from self._train(feed)
        finally:
            for end in self.ends:
                end.channel.abandon()

    def _train(self, feed: Feed) -> Iterator[int]:
        self.optimizer.zero_grad()  # loads now what neighbours would otherwise wait for
        for end in self.ends:
            end.channel.open()
        _checks.not_over(self.clock == 0 and any(end.channel.over for end in self.ends))
        while (batch := self.next_batch(feed)) is not None:
            self.advance(batch)
            self.learn()
            self.hear()
            if batch.rehearsed:
                continue
            if self.clock - self.status.saved >= self.every and not self._waiting:
                self.save()  # half a step cannot be saved
            yield self.clock
        self.finish()

    def stop(self) -> None:
        """End all stages soon: the first one reads no further. Safe in a signal handler."""
        self.stopping = True
        for end in self.ends:
            end.stopping = True

    def feed(self, batches: Iterable[Sequence[Any]]) -> Feed:
        """Where batches come from: the stage before, or ``batches``."""
        return self.upstream if isinstance(self.upstream, Feed) else Reading(batches)

    def next_batch(self, feed: Feed) -> Batch | None:
        """The next batch of ``feed``, or one to rehearse while a neighbour is away."""
        while not self._makes_an_end():
            ready = self.downstream is None or self.downstream.ready()
            feed.hold(not ready)
            batch = feed.poll() if ready else None
            if ready and feed.ended:
                return None
            if batch is None and (feed.idle or not ready):
                batch = feed.rehearse()
            if batch is not None:
                return self._on_own_device(batch)
            awaited = self.upstream if ready else self.downstream
            assert awaited is not None
            awaited.look()
        return None

    def _makes_an_end(self) -> bool:
        """Whether there is nothing more to do, or nobody to do it for."""
        if any(end.asked_to_stop for end in self.ends):
            self.stop()
        if self.stopping:
            for end in self.ends:
                end.stop_too()
        alone = self.downstream is not None and self.downstream.away
        return self.stopping and (self.reads or alone)

    def _on_own_device(self, batch: Batch) -> Batch:
        like = next(self.part.parameters(), torch.empty(0))
        data = {"input": batch.input, "target": batch.target, "context": batch.context}
        return batch._replace(**_trees.on_device_of(data, like))

    def advance(self, batch: Batch) -> None:
        """Run forward, and back from the loss or from a synthetic gradient."""
        self._fresh = not batch.rehearsed
        with synthesizer_context(batch.context):
            x = batch.input if self.upstream is None else self.upstream.take(batch)
            output = self.part(x)
            if self.downstream is None:
                assert self.loss is not None
                loss = self.loss(output, batch.target)
                (loss / self.accumulate).backward()  # type: ignore[no-untyped-call]
                self.status.saw_loss(loss)
            else:
                self.downstream.hand_over(output, batch)
        if self.upstream is not None:
            self.upstream.answer(batch)

    def learn(self) -> None:
        """Learn from what came back, and step."""
        for end in self.ends:
            end.learn(self.clock + 1)
        self.clock += self._fresh
        self.rehearsed += not self._fresh
        self._waiting += 1
        if self._waiting == self.accumulate:
            self._step()
        for end in self.ends:
            end.tell(self.clock)

    def hear(self) -> None:
        """In lock-step: wait for the neighbours."""
        for end in self.ends:
            end.hear(self.clock)
        self.status.stepped()

    def save(self) -> None:
        """Write a checkpoint, if anything was trained; it is on disk when this returns."""
        if self.checkpoints is not None and (self.clock or self.rehearsed):
            self.checkpoints.save(self.clock, self.state_dict())
            self.status.saved = self.clock

    def finish(self) -> None:
        """Write a checkpoint, wait for the later stages to finish, and leave."""
        if self._waiting:
            self._step()
        self.save()
        if self.downstream is not None:
            self.downstream.finish()
        for end in self.ends:
            end.channel.close()
        self.status.finished()

    def state_dict(self) -> dict[str, Any]:
        """All that a restarted stage needs, in tensors, numbers and plain containers."""
        return {
            "clock": self.clock,
            "model": self.ends[0].channel.model.hex(),
            "part": self.part.state_dict(),
            "interfaces": [interface.state_dict() for interface in self._interfaces()],
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state`` was written."""
        self.part.load_state_dict(state["part"])
        for interface, kept in zip(self._interfaces(), state["interfaces"], strict=True):
            interface.load_state_dict(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.clock = state["clock"]

    def _signalled(self) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self.stop()

    def _step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._waiting = 0

    def _interfaces(self) -> list[nn.Module]:
        found = [end.interface() for end in self.ends]
        return [interface for interface in found if interface is not None]

    def _resume(self) -> None:
        if self.checkpoints is None or (state := self.checkpoints.newest()) is None:
            return
        try:
            _checks.of_this_model(state.get("model"), self.ends[0].channel.model.hex())
            self.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError) as error:
            _checks.resumes(self.checkpoints.folder, error)
        self.status.saved = self.status.resumed = self.clock


def take_turns(stages: Sequence[Stage], *batch: Any) -> None:
    """Train ``stages`` that are joined by :func:`in_process` for one step, phase by phase.

    Args:
        stages: from the first to the last.
        batch: ``input, target`` or ``input, target, context``.

    All of it runs in one thread: to debug, and to test against plain backpropagation.
    """
    for stage in stages:
        own = stage.next_batch(stage.feed([batch]))
        assert own is not None
        stage.advance(own)
    for stage in reversed(stages):
        stage.learn()
    for stage in stages:
        stage.hear()
