r"""What a synthesizer is trained on: one regression, whatever the message is.

PyTorch's ``mse_loss`` would do, but for two facts. First, the real gradients of a mean loss
are tiny, around 1e-5, and shrink as training goes on, while Adam moves a weight by about its
rate, whatever the target: a synthesizer of such messages is thrown about by its own steps.
Second, the gradient of the regression must be ready *inside* a backward pass, where no second
pass may start. So it is written out here.

With :math:`u` the synthesizer's output, :math:`m` the real message of :math:`n` elements
and :math:`r` a running root mean square of the messages,

.. math::
    L(u) = \frac{1}{n} \sum_i \Big(u_i - \frac{m_i}{r}\Big)^2, \qquad
    \frac{\partial L}{\partial u_i} = \frac{2}{n} \Big(u_i - \frac{m_i}{r}\Big),
    \qquad s = r u,

where :math:`s` is the synthetic message that is sent. Without ``normalize``, :math:`r = 1`.
The mean runs over *all* elements, so the layout (batch first, layers first) does not matter.

One step needs :math:`r` twice: to send :math:`s`, and later to learn from :math:`m`. Both
use the value that the forward pass found (``snapshot``), the second with :math:`m` in it, so
that a sudden jump of the messages cannot make the root mean square of a target larger than
ten. An arriving message adds to the moments a correction computed *from that value*. Sums
commute, so the order in which the messages of one step come back, which differs between
``unlock=True`` and ``unlock=False``, does not matter. (In the early form, a cut that is used
three times or more in one forward pass may receive its first message before the last use,
which then finds a newer scale.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks

RATE = 0.01  # of the running mean: a memory of about a hundred messages
PRIOR = 1e-30  # the weight of the scale 1, which holds until the first message comes
NARROW = (torch.float16, torch.bfloat16)
FAR, OFTEN = 30, 100  # so many times as large, so often in a row: the synthesizer does not follow


class Objective(nn.Module):
    """The regression of one interface, with its scale.

    Buffers:
        moments: ``(mean square, weight)`` of the messages so far, both running means;
            their ratio is free of the bias of starting at zero. At least float32. Absent
            without ``normalize``.
        record: sums over measured messages, ``(count, loss, cosine, norm ratio)``; only
            while a :class:`dni.diagnostics.Monitor` watches; neither saved nor copied.
    """

    moments: Tensor | None
    record: Tensor | None

    def __init__(self, normalize: bool, nonfinite: str, own_scale: bool = False) -> None:
        super().__init__()
        self.nonfinite = nonfinite
        self.own_scale = own_scale
        self._far = 0  # messages in a row whose scale is not the synthesizer's own
        start = torch.full((2,), PRIOR, dtype=torch.float32)
        self.register_buffer("moments", start if normalize else None)
        self.register_buffer("record", None, persistent=False)

    def snapshot(self) -> Tensor | None:
        """A copy of the moments, for :meth:`scaled` and :meth:`gradient` in one step."""
        return None if self.moments is None else self.moments.clone()

    def scaled(
        self, prediction: Tensor, snapshot: Tensor | None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """The synthetic message ``s = r u``."""
        u = prediction.detach()
        dtype = dtype or u.dtype
        return (u if snapshot is None else _wide(u) * _scale(snapshot)).to(dtype)

    def divided(self, message: Tensor, snapshot: Tensor | None) -> Tensor:
        """``m / r``: a message in the units of a prediction."""
        return message if snapshot is None else _wide(message) / _scale(snapshot)

    @torch.no_grad()
    def gradient(
        self,
        prediction: Tensor,
        message: Tensor,
        snapshot: Tensor | None,
        learning: bool,
        who: str,
    ) -> Tensor | None:
        """``dL/du`` for a real message; ``None`` if the synthesizer does not learn from it."""
        if not learning and self.record is None:
            return None
        if message.numel() == 0:  # an empty batch: nothing to learn, nothing to measure
            return torch.zeros_like(prediction) if learning else None
        u, m = _wide(prediction), _wide(message)
        mean_square = torch.linalg.vector_norm(m).square() / m.numel()
        known = _number(mean_square) if learning else None
        if known is not None and not math.isfinite(known):
            _checks.nonfinite_message(message, self.nonfinite, who)
            return None
        if known and self.own_scale and self._far < OFTEN:
            self._compare(known, u, who)
        if snapshot is not None:
            m = m / (self._observe(mean_square, snapshot, who) if learning else _scale(snapshot))
        if self.record is not None:
            unit: Tensor | float = 1.0
            if self.own_scale:
                unit = mean_square.sqrt()
            elif snapshot is not None and not learning:  # what never learnt has no scale
                unit = torch.where(snapshot[1] > RATE / 2, 1.0, mean_square.sqrt())
            self.record.add_(_measure(u / unit, m / unit))
        if not learning:
            return None
        gradient = (u - m).mul_(2 / u.numel())
        if known is None:  # no error can be raised here: a non-finite message teaches nothing
            gradient = torch.where(torch.isfinite(mean_square), gradient, 0.0)
        return gradient.to(prediction.dtype)

    def _observe(self, mean_square: Tensor, snapshot: Tensor, who: str) -> Tensor:
        """Add a message to the moments; return the scale of ``snapshot`` with this message in it.

        A hundred messages or more in one step could together subtract more than the snapshot
        holds. So the moments never fall below what this message alone would leave.
        """
        assert self.moments is not None
        new = torch.stack((mean_square, torch.ones_like(mean_square))).to(snapshot.dtype)
        if torch.compiler.is_compiling():
            new = torch.where(torch.isfinite(mean_square), new, snapshot)
        updated = torch.lerp(snapshot, new, RATE)
        try:
            self.moments.add_(updated - snapshot).clamp_min_(RATE * new)
        except RuntimeError as error:
            _checks.no_transform(who, error)
            raise
        return _scale(updated)

    def _compare(self, real: float, u: Tensor, who: str) -> None:
        """Warn once if a synthesizer has a scale of its own, far from that of the messages."""
        predicted = float(u.square().mean())
        self._far = self._far + 1 if 0 < FAR**2 * predicted < real else 0
        if self._far == OFTEN:
            _checks.scale_is_another(math.sqrt(real / predicted), who)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Objective:
        """``.half()`` and the like leave the buffers wide: a mean square of 1e-10 would be 0."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and torch.finfo(new.dtype).bits < 32:
                self._buffers[name] = old.to(new.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are not measured: a monitor knows only the original."""
        return self.__dict__ | {"_buffers": self._buffers | {"record": None}}


def _scale(means: Tensor) -> Tensor:
    """``r``, never 0: a cut receives zeros while the synthesizer above it is new."""
    square, weight = means.unbind()
    return (square / weight).sqrt().clamp_min(torch.finfo(means.dtype).tiny)


def _number(tensor: Tensor) -> float | None:
    """The value of ``tensor``; ``None`` if the compiler or ``torch.func.vmap`` hides it."""
    if torch.compiler.is_compiling():
        return None
    try:
        return float(tensor)
    except RuntimeError:
        return None


def _wide(tensor: Tensor) -> Tensor:
    """``tensor`` in at least float32: 1e-8 is 0 in half precision."""
    return tensor.float() if tensor.dtype in NARROW else tensor


def _measure(u: Tensor, target: Tensor) -> Tensor:
    """``(1, loss, cosine, norm ratio)`` of a prediction; zeros for a zero or non-finite message."""
    tiny = torch.finfo(u.dtype).tiny
    real, predicted = target.norm(), u.norm()
    loss = (u - target).square().mean()
    cosine = (u * target).sum() / (predicted * real).clamp_min(tiny)
    measured = torch.stack((torch.ones_like(loss), loss, cosine, predicted / real))
    return torch.where(torch.isfinite(real) & (real > 0), measured, 0.0)
