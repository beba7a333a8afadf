r"""A synthesizer that predicts the loss, and sends its gradient.

What the gradient of a classifier looks like is known before anything is learnt: the error of its
output, carried back by its weights. It is large for the few samples that are told wrong, and
next to nothing for the others. A perceptron has to learn that from examples, again whenever the
network has moved. Here it is built in, and what is left to learn is a linear classifier::

    trigger h ---> W h + b ---> softmax ---> p              1. what lies above, as it would be
                                             |
    s <----------- W^T <-------- p - y <-----+--- labels    2. the gradient of its cross-entropy
    |
    '--> compared with the real message: W and b learn      3. not from the labels: from that

A local loss has the same shape (:class:`dni.LocalLossSynthesizer`), and another aim: its head
learns to tell the labels from the trigger, whatever the network above makes of it. This one
learns to send what comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dni import _checks
from dni.synthesizers.maps import grid_of

FINE = 16  # places a side, at most, of what is seen of a map


class LossSynthesizer(nn.Module):
    r"""The gradient of a predicted cross-entropy: that of a linear classifier of the trigger.

    With a trigger :math:`h` of :math:`N` rows, labels :math:`y` as one-hot vectors, and
    :math:`p = \mathrm{softmax}(W h + b)`,

    .. math:: s = \frac{\mathit{scale}}{N} \, W^T (p - y) ,

    the gradient of the mean cross-entropy of a classifier that is not fitted to the labels, but so
    that its gradient is the real one. It starts at :math:`W = 0`. Behind a cut in front of the last
    layer of a network it can be exact.

    Its messages have a scale of their own: how much larger they are than :math:`W` says how sure
    the network is. What a loss is multiplied by it has to be told.

    Of a map it sees the means over at most 16 x 16 blocks, each with weights of its own, and
    spreads what it says over their places.

    Args:
        shape: number of features, or ``(channels, height, width)``. Maps of other heights and
            widths are seen on the same grid.
        context_classes: number of classes.
        scale: what the network's loss is, in mean cross-entropies: 1 for the mean over a batch,
            the number of rows for their sum, a part where gradients are accumulated. A number, or
            a function that is asked each time, as ``scaler.get_scale`` of a GradScaler.

    Shapes:
        trigger and message: ``(..., features)``, or ``(N, channels, H, W)``; context: integer
        labels ``(...)`` or ``(N,)``, or floating-point vectors of ``context_classes``
        probabilities, of mixed or smoothed labels.

    Example:
        >>> h, y = torch.randn(5, 8, requires_grad=True), torch.tensor([0, 1, 2, 0, 1])
        >>> head, synthesizer = torch.nn.Linear(8, 3), dni.LossSynthesizer(8, context_classes=3)
        >>> synthesizer(h, y).abs().max() == 0    # a new one says nothing
        tensor(True)
        >>> _ = synthesizer.load_state_dict({    # as if it had learnt
        ...     **synthesizer.state_dict(), "bias": head.bias, "labels.weight": head.weight.T
        ... })
        >>> torch.nn.functional.cross_entropy(head(h), y).backward()
        >>> torch.allclose(synthesizer(h, y), h.grad)
        True
    """

    own_scale = True

    def __init__(
        self,
        shape: int | Sequence[int],
        context_classes: int,
        scale: float | Callable[[], float] = 1.0,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        _checks.positive(who, context_classes=context_classes)
        self.scale = _checks.loss_scale(scale, who)
        self.grid: tuple[int, int] | None = None
        if isinstance(shape, int):
            _checks.positive(who, shape=shape)
            self.features = features = shape
        else:
            self.features, height, width = _checks.map_shape(shape, who)
            self.grid = grid_of(height, width, FINE)
            features = self.features * math.prod(self.grid)
        self.classifier = nn.Linear(features, context_classes)
        for parameter in self.classifier.parameters():
            nn.init.zeros_(parameter)

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthetic message for ``trigger``."""
        if self.grid is None:
            _checks.feature_width(trigger, self.features, type(self).__name__)
            return self._gradient(trigger, context)
        _checks.maps(trigger, self.features, type(self).__name__)
        blocks = F.adaptive_avg_pool2d(trigger, self.grid)
        seen = self._gradient(blocks.flatten(1), context).view_as(blocks)
        places = trigger.shape[2:].numel() / math.prod(self.grid)  # in a block
        return F.interpolate(seen, trigger.shape[2:]) / places

    def _gradient(self, h: Tensor, context: Any) -> Tensor:
        """``scale / N * W^T (p - y)``."""
        rows, weight = max(1, h.shape[:-1].numel()), self.classifier.weight
        error = self.classifier(h).softmax(-1) - self._one_hot(context, h)
        scale = (self.scale() if callable(self.scale) else self.scale) / rows
        message = error.matmul(weight).to(weight.dtype) * scale  # not narrow: it may be 1e-8
        return _steered(message, message.numel() / 2 / scale**2 / _square(error))

    def _one_hot(self, context: Any, h: Tensor) -> Tensor:
        """Labels as vectors; vectors as they are."""
        classes, who = self.classifier.out_features, type(self).__name__
        _checks.context_given(context, classes, who)
        labels = not context.is_floating_point()
        if labels:
            _checks.labels_allowed(context, classes, classes, who)
        _checks.context_shape(h.shape[:-1], classes, context, labels, who)
        if not labels:
            return context.to(self.classifier.weight.dtype)  # type: ignore[no-any-return]
        try:
            return F.one_hot(context.long(), classes)
        except RuntimeError as error:
            _checks.labels_in_range(error, context, classes, who)

    def extra_repr(self) -> str:
        """What ``print(synthesizer)`` says of it."""
        return f"grid={self.grid}, scale={self.scale}"


def _square(error: Tensor) -> Tensor:
    """Over all rows; of classifiers that err no more, what rounding leaves."""
    wide = error.detach().float()
    return wide.square().sum().clamp_min(1e-6)


def _steered(message: Tensor, factor: Tensor) -> Tensor:
    r"""``message``, whose gradients are multiplied by ``factor``.

    Of :math:`2 (s - m) / n`, the gradient of a mean square, which is tiny, it makes one that moves
    :math:`W` by its own error: with :math:`\delta = p - y` and :math:`s = a \, W^T \delta`,

    .. math:: \frac{1}{\lVert \delta \rVert^2} \sum \delta \, \frac{(s - m)^T}{a}
    """
    return message.detach() + factor * (message - message.detach())
