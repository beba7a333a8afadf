"""A language model that is trained in windows of a few tokens.

The text is cut into as many streams as the batch has rows. A stream ends only where the text
does: until then the state goes on from window to window, and the synthesizer predicts the
gradient that all windows to come will send into it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import dni
from examples import recurrent, training
from examples.penn_treebank.model import CORES, LanguageModel
from examples.text import Corpus, load


class Run:
    """A model in training: all that a checkpoint holds."""

    def __init__(self, corpus: Corpus, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        self.arguments, self.arm = arguments, recurrent.Arm.of(arguments)
        self.tokens = corpus.tokens
        a = arguments
        self.model = LanguageModel(
            len(corpus.tokens), a.model, a.embedding, a.units, a.layers, a.tied
        ).to(a.device)
        self.told_width = len(corpus.tokens) if a.level == "char" else a.embedding
        context = (self.arm.window + 1) * self.told_width
        self.helpers = recurrent.Helpers(self.arm, self.model.state_width, context).to(a.device)
        self.optimizer = recurrent.optimizer(self.model, self.helpers, self.arm)
        self.train, self.valid, self.test = (
            streams(part, rows).to(a.device)
            for part, rows in ((corpus.train, a.batch), (corpus.valid, 10), (corpus.test, 10))
        )
        self.step, self.position, self.state = 0, 0, None
        self.best, self.test_bits, self.curve = math.inf, math.inf, []

    def windows(self, steps: int) -> Iterator[dni.recurrent.Window]:
        """The next ``steps`` windows, epoch after epoch."""
        while steps > 0:
            if self.position >= len(self.train) - 1:
                self.position, self.state = 0, None
            piece = self.train[self.position :][: steps * self.arm.window + 1]
            with dni.synthesizer_context(self.to_come(self.position)):
                loop = dni.windows(
                    piece[:-1],
                    piece[1:],
                    size=self.arm.window,
                    interface=self.helpers.interface,
                    auxiliary=self.helpers.auxiliary,
                    state=self.state,
                    ends=self.position + len(piece) >= len(self.train),
                )
            for window in loop:
                yield window
                self.position += len(window.parts[0])
                self.step += 1
                steps -= 1
            self.state = loop.state

    def learn(self, steps: int) -> None:
        """Train for ``steps`` windows, a step of the optimiser after each."""
        for window in self.windows(steps):
            tokens, targets = window
            scores, state = self.model(tokens, window.state)
            loss = F.cross_entropy(scores.flatten(0, 1), targets.flatten())
            with dni.synthesizer_context(self.to_come(self.position + len(tokens))):
                window.backward(loss, state)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.arguments.clip)
            self.set_rates()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def set_rates(self) -> None:
        """Rates fall linearly, to 0 at the last step."""
        left = 1 - self.step / self.arguments.steps
        rates = (self.arm.lr, self.arm.synthesizer_lr)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            group["lr"] = rate * left

    def to_come(self, position: int) -> Tensor | None:
        """What a synthesizer with context is told about a state: the next tokens.

        Characters are one-hot vectors, words are embedded.
        """
        if not self.arm.context:
            return None
        tokens = self.train[position : position + self.arm.window + 1]
        if self.arguments.level == "char":
            told = F.one_hot(tokens, self.told_width).float()
        else:
            told = F.layer_norm(self.model.embedding.weight[tokens].detach(), (self.told_width,))
        missing = self.arm.window + 1 - len(told)
        return F.pad(told, (0, 0, 0, 0, 0, missing)).transpose(0, 1).flatten(1)

    def save(self, path: Path) -> None:
        """Write everything, after a window."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "arguments": {k: v for k, v in vars(self.arguments).items() if k not in FREE_FLAGS},
                "tokens": self.tokens,
                "model": self.model.state_dict(),
                "helpers": self.helpers.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "progress": {name: getattr(self, name) for name in PROGRESS},
            },
            partial,
        )
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Go on where :meth:`save` was called."""
        saved = torch.load(path, map_location=self.arguments.device)
        if saved["tokens"] != self.tokens:
            raise SystemExit(f"{path} was saved with another text: pass the same --data.")
        for name, value in saved["arguments"].items():
            if value != getattr(self.arguments, name):
                raise SystemExit(
                    f"{path} was saved with --{name.replace('_', '-')} {value}, this run has "
                    f"{getattr(self.arguments, name)}: a run goes on with the flags it began with."
                )
        self.model.load_state_dict(saved["model"])
        self.helpers.load_state_dict(saved["helpers"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name, value in saved["progress"].items():
            setattr(self, name, value)


FREE_FLAGS = ("data", "device", "every", "json", "resume", "save", "seed")  # may change


PROGRESS = ("step", "position", "state", "best", "test_bits", "curve")


def streams(tokens: Tensor, rows: int) -> Tensor:
    """``(time, rows)``: the text in ``rows`` pieces, side by side."""
    length = len(tokens) // rows
    return tokens[: length * rows].view(rows, length).t().contiguous()


@torch.no_grad()
def bits(model: LanguageModel, tokens: Tensor) -> float:
    """Bits per token of streams; their state is carried on."""
    state, total = None, 0.0
    for start in range(0, len(tokens) - 1, 200):
        piece = tokens[start : start + 201]
        scores, state = model(piece[:-1], state)
        loss = F.cross_entropy(scores.flatten(0, 1), piece[1:].flatten(), reduction="sum")
        total += loss.item()
    return total / tokens[1:].numel() / math.log(2)


@dataclass
class Outcome:
    """Bits per token; ``curve`` holds ``(step, bits of the validation text)``."""

    bits: float
    valid: float
    curve: list[tuple[int, float]]
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return vars(self)


def train(run: Run, steps: int, every: int, save: Path | None = None) -> Outcome:
    """Train up to step ``steps``; look at the validation text every ``every`` steps."""
    spent, title = 0.0, f"train {run.arm.name}"
    bar = tqdm(total=steps, initial=run.step, desc=title, leave=False, disable=None)
    while run.step < steps:
        before, start = run.step, time.perf_counter()
        run.learn(min(every, steps - run.step))
        spent += time.perf_counter() - start
        valid = bits(run.model, run.valid)
        run.curve.append((run.step, valid))
        if valid < run.best:
            run.best, run.test_bits = valid, bits(run.model, run.test)
        bar.update(run.step - before)
        bar.set_postfix(bits=f"{valid:.3f}")
        if save:
            run.save(save)
    bar.close()
    return Outcome(run.test_bits, run.best, run.curve, spent)


def options() -> argparse.ArgumentParser:
    """The flags of this example."""
    parser = recurrent.options(
        __doc__.splitlines()[0],
        window=5,
        data="docs (Python's docstrings, default), or a folder with the Penn Treebank files",
    )
    parser.set_defaults(steps=5000, batch=32, lr=1e-3, hidden=512, synthesizer_lr=3e-4)
    parser.add_argument("--level", choices=("char", "word"), default="char")
    parser.add_argument("--model", choices=tuple(CORES), default="LSTM")
    parser.add_argument("--embedding", type=int, default=64)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tied", action="store_true", help="the readout is the embedding")
    parser.add_argument("--clip", type=float, default=1.0, help="norm of the model's gradients")
    parser.add_argument("--every", type=int, default=1000, help="windows between evaluations")
    parser.add_argument("--save", type=Path, help="write a checkpoint here at each evaluation")
    parser.add_argument("--resume", type=Path, help="go on from this checkpoint")
    return parser


def main() -> None:
    """Train with the options of the command line."""
    arguments = recurrent.parse(options())
    corpus = load(arguments.data, arguments.level)
    run = Run(corpus, arguments)
    if arguments.resume:
        run.resume(arguments.resume)
    outcome = train(run, arguments.steps, arguments.every, arguments.save)
    unit = "character" if arguments.level == "char" else "word"
    print(
        f"{corpus.name}, windows of {run.arm.window}, {run.arm.name}: {outcome.bits:.3f} bits "
        f"per {unit} (perplexity {2**outcome.bits:.2f}) after {run.step} steps"
    )
    if arguments.json:
        training.write_json(arguments.json, arguments, {run.arm.name: [outcome]})


if __name__ == "__main__":
    main()
