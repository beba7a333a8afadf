r"""A synthesizer whose message is the gradient of a classifier that it has learnt.

The form of such a gradient is known before anything is learnt: the error of the classifier's
output, carried back by its weights. It is large for the few samples that are misclassified, and
next to nothing for the others. A perceptron has to learn that from examples, and again whenever
the network has moved. Here it is built in, and only the weights are left to learn::

    trigger h ---> W h + b ---> softmax ---> p              1. what lies above, as it would be
                                             |
    s <----------- W^T <-------- p - y <-----+--- labels    2. the gradient of its cross-entropy
    |
    '--> compared with the real message: W and b learn      3. not from the labels: from that

A local loss (:class:`dni.LocalLossSynthesizer`) has the same form but another aim: its head
learns to tell the labels from the trigger, whatever the network above makes of it. This
classifier learns to send the messages that really come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import _checks
from dni.synthesizers.maps import grid_of

FINE = 16  # blocks a side, at most, in which a map is seen
IGNORED = -100  # the label that F.cross_entropy leaves out
LARGE = 3.0  # a mean square of activations that is seldom exceeded after batch norm


class LossSynthesizer(nn.Module):
    r"""The gradient of a predicted cross-entropy: that of a linear classifier of the trigger.

    With a trigger :math:`h` of :math:`N` rows, labels :math:`y` as one-hot vectors, and
    :math:`p = \mathrm{softmax}(W h + b)`,

    .. math:: s = \frac{\mathit{scale}}{N} \, W^T (p - y) ,

    the gradient of a classifier's mean cross-entropy. The classifier is not fitted to the labels,
    but so that its gradient is the real one. It starts at :math:`W = 0`. At a cut in front of the
    last layer of a network it can be exact (with up to 1024 features, see below).

    It is for networks trained by a mean cross-entropy, without class weights; it learns best with
    batch norm. Its messages have a scale of their own, since their size relative to :math:`W` says
    how sure the network is. So it has to be told what the loss is multiplied by (``scale``).

    Of a map it sees the means over at most 16 x 16 blocks, each with weights of its own (for 1000
    classes that is a large layer), and spreads its answer for a block over the block's places.

    An optimiser like Adam moves every weight by its rate, and so moves the scores by the sum of all
    activations. So that many of them do not throw it about, with :math:`n > 1024` features the mean
    :math:`\bar h` over the rows with a label counts as that of 1024, and is taken as a constant,

    .. math:: p = \mathrm{softmax}\big(W (h - (1 - 1024/n) \, \bar h) + b\big) ,

    and with :math:`n > 8192` the weights count as those of 8192: :math:`W` is ``gain`` =
    :math:`8192/n` times ``classifier.weight``.

    Args:
        shape: number of features, or ``(channels, height, width)``. Maps of other heights and
            widths are seen on the same grid.
        context_classes: number of classes.
        scale: the network's loss in units of the mean cross-entropy: 1 for the mean over a batch,
            the number of rows for the sum over it, 1/4 if four batches are accumulated. Either a
            number or a function, called for each message: with a GradScaler, pass
            ``lambda: scaler.get_scale()``.

    Shapes:
        trigger and message: ``(..., features)``, or ``(N, channels, H, W)``; context: integer
        labels ``(...)`` or ``(N,)``, where -100 marks a row without a label, left out of the loss;
        or float vectors of ``context_classes`` probabilities, for mixed or smoothed labels.

    Example:
        >>> h, y = torch.randn(5, 8, requires_grad=True), torch.tensor([0, 1, 2, 0, 1])
        >>> head, synthesizer = torch.nn.Linear(8, 3), dni.LossSynthesizer(8, context_classes=3)
        >>> synthesizer(h, y).abs().max() == 0    # a new one sends nothing
        tensor(True)
        >>> _ = synthesizer.classifier.load_state_dict(head.state_dict())    # as if it had learnt
        >>> torch.nn.functional.cross_entropy(head(h), y).backward()
        >>> torch.allclose(synthesizer(h, y), h.grad)
        True
    """

    own_scale = True
    shared: float = 1024  # what rows have in common counts as if of so many features, at most
    moved: float = 8192  # and weights count as if of so many

    def __init__(
        self,
        shape: int | Sequence[int],
        context_classes: int,
        scale: float | Callable[[], float] = 1.0,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        _checks.class_count(context_classes, who)
        self.scale = scale if callable(scale) else _checks.loss_scale(scale, who)
        self.grid: tuple[int, int] | None = None
        if isinstance(shape, Sequence):
            self.features, height, width = _checks.map_shape(shape, who)
            self.grid = grid_of(height, width, FINE)
        else:
            _checks.positive(who, shape=shape)
            self.features = int(shape)
        self.classifier = nn.Linear(self.features * math.prod(self.grid or ()), context_classes)
        self.gain = min(1.0, self.moved / self.classifier.in_features)
        for parameter in self.classifier.parameters():
            nn.init.zeros_(parameter)

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthetic message for ``trigger``."""
        if self.grid is None:
            _checks.feature_width(trigger, self.features, type(self).__name__)
            return self._gradient(trigger, context)
        _checks.maps(trigger, self.features, type(self).__name__)
        blocks = F.adaptive_avg_pool2d(trigger, self.grid)
        places = max(1.0, trigger.shape[2:].numel() / math.prod(self.grid))  # per block
        said = self._gradient(blocks.flatten(1), context, places).view_as(blocks)
        return _spread(said, trigger)

    def _gradient(self, h: Tensor, context: Any, places: float = 1.0) -> Tensor:
        """``scale / N * W^T (p - y)``, with gradients scaled for learning."""
        weight = self._weight()
        y, known = self._labels(context, h)
        known = known.expand(*h.shape[:-1], 1)
        wide = torch.promote_types(weight.dtype, torch.float32)
        rows = known.sum(dtype=wide).clamp_min(1)
        scores = _weighted(self._scores(h, weight, known / rows), _step(h))
        error = (scores.softmax(-1) - y) * known
        scale = self.scale
        if callable(scale):
            scale = _checks.loss_scale(scale(), type(self).__name__)
        share = scale / rows  # that of one row in the loss
        message = error.matmul(weight).to(weight.dtype) * share  # not narrow: it may be 1e-8
        factor = message.numel() * places**2 / (2 * share**2 * _square(error))
        return _weighted(message, factor)

    def _weight(self) -> Tensor:
        """``W``; a step down its gradient moves it as far as it would without ``gain``."""
        weight = self.classifier.weight
        if self.gain == 1:
            return weight
        return _weighted(self.gain * weight, weight.new_full((), self.gain**-2))

    def _scores(self, h: Tensor, weight: Tensor, shares: Tensor) -> Tensor:
        """``W h + b``; wide activations lose most of their mean, weighted by ``shares``."""
        features = h.shape[-1]
        if features > self.shared:
            mean = shares.to(h.dtype).flatten() @ h.reshape(-1, features)
            h = h - (1 - self.shared / features) * mean
        return F.linear(h, weight, self.classifier.bias)

    def _labels(self, context: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        """Labels as vectors, and for each row whether it has one."""
        classes, who = self.classifier.out_features, type(self).__name__
        _checks.context_given(context, classes, who)
        labels = not context.is_floating_point()
        if labels:
            _checks.labels_allowed(context, classes, classes, who)
        _checks.context_shape(h.shape[:-1], classes, context, labels, who)
        if not labels:
            return context.to(h.dtype), torch.ones_like(context[..., :1], dtype=torch.bool)
        context = context.long()  # as a byte, IGNORED would be 156
        known = context != IGNORED
        try:
            return F.one_hot(torch.where(known, context, 0), classes), known.unsqueeze(-1)
        except RuntimeError as error:
            _checks.labels_in_range(error, context, classes, who)

    def extra_repr(self) -> str:
        """What ``print(synthesizer)`` shows besides its modules."""
        scale = "asked" if callable(self.scale) else f"{self.scale:g}"
        return f"grid={self.grid}, scale={scale}, gain={self.gain:g}"


class _Weighted(torch.autograd.Function):
    r"""The identity, with ``factor`` times the gradient in its backward.

    From :math:`2 (s - m) / n`, the tiny gradient of a mean square, it makes one that moves
    :math:`W` by its own error: with :math:`\delta = p - y` and :math:`s = a \, W^T \delta`,

    .. math:: \frac{1}{\lVert \delta \rVert^2} \sum \delta \, \frac{(s - m)^T}{a} ,

    plus what reaches :math:`W` by way of :math:`p`, times :func:`_step`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, factor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return (gradient * factor).to(gradient.dtype), None


def _weighted(tensor: Tensor, factor: Tensor) -> Tensor:
    return _Weighted.apply(tensor, factor)  # type: ignore[no-untyped-call, no-any-return]


def _square(error: Tensor) -> Tensor:
    """The squared error over all rows, at least 1e-6: below that there is only rounding."""
    return error.detach().float().square().sum().clamp_min(1e-6)


def _step(h: Tensor) -> Tensor:
    """1, or less for large activations, whose scores move far in one step of the weights."""
    return (LARGE / h.detach().float().square().mean().clamp_min(LARGE)).square()


def _spread(said: Tensor, like: Tensor) -> Tensor:
    """Spread a gradient of block means over the places, as ``F.adaptive_avg_pool2d`` would."""
    if said.shape == like.shape:
        return said
    rows, columns = (
        F.adaptive_avg_pool1d(torch.eye(side, dtype=said.dtype, device=said.device)[None], blocks)
        for side, blocks in zip(like.shape[2:], said.shape[2:], strict=True)
    )
    return rows[0].matmul(said).matmul(columns[0].t())
