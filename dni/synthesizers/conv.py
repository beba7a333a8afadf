"""A convolutional synthesizer for maps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dni import _checks
from dni.synthesizers.layers import Layers


class ConvSynthesizer(Layers):
    r"""A stack of convolutions over maps; a context is broadcast over space.

    The equation of :class:`BasicSynthesizer`, with convolutions of equal output size for
    :math:`W_t` and :math:`W_k`.

    Args:
        channels: channels of trigger and message.
        n_hidden: number of hidden layers; 0 is one convolution.
        hidden_channels: channels of the hidden layers; ``channels`` if left out.
        kernel_size: odd, so that height and width stay the same (5 in the paper).
        context_dim, context_classes, bias, activation: see :class:`BasicSynthesizer`.

    Shapes:
        trigger and message: ``(N, channels, H, W)``; context: ``(N, context_dim)``, or
        labels ``(N,)``.

    Example:
        >>> synthesizer = dni.ConvSynthesizer(channels=8, n_hidden=1, context_classes=10)
        >>> synthesizer(torch.ones(2, 8, 5, 5), torch.tensor([3, 7])).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        channels: int,
        n_hidden: int = 0,
        hidden_channels: int | None = None,
        kernel_size: int = 5,
        context_dim: int | None = None,
        *,
        context_classes: int | None = None,
        bias: bool = True,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__(context_dim, context_classes, activation)
        who = type(self).__name__
        _checks.positive(
            who, channels=channels, hidden_channels=hidden_channels, kernel_size=kernel_size
        )
        _checks.hidden_count(n_hidden, who)
        _checks.odd("kernel_size", kernel_size, who)
        self.channels = channels
        widths = [channels, *[hidden_channels or channels] * n_hidden, channels]
        layers = [
            nn.Conv2d(i, o, kernel_size, padding=kernel_size // 2, bias=bias)
            for i, o in pairwise(widths)
        ]
        self._build(layers, widths[1], bias)

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthetic message for ``trigger``."""
        _checks.maps(trigger, self.channels, type(self).__name__)
        projected = self._project(context, trigger.shape[:1], trigger.dtype)
        return self._run(trigger, None if projected is None else projected[..., None, None])
