"""A synthesizer for features: over the last dimension, whatever the others are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dni import _checks
from dni.synthesizers.layers import Layers


class BasicSynthesizer(Layers):
    r"""A multi-layer perceptron over the last dimension of its trigger.

    With :math:`W_t, W_c` the projections of trigger :math:`h` and context :math:`c`,

    .. math::
        z_0 = W_t h + W_c c, \qquad z_{k+1} = W_k \, \varphi(z_k), \qquad
        \text{message} = z_{n\_hidden}.

    Args:
        output_dim: width of the message.
        n_hidden: number of hidden layers; 0 is linear.
        hidden_dim: width of the hidden layers; ``output_dim`` if left out.
        trigger_dim: width of the trigger; ``output_dim`` if left out, as for a gradient.
        context_dim: width of a context vector; if neither this nor ``context_classes`` is
            given, a context is ignored.
        context_classes: number of classes, if the context is a tensor of integer labels:
            :math:`W_c` has a column per class, and nobody has to write one-hot vectors.
        bias: whether the layers have a bias.
        activation: :math:`\varphi`; a function, or a module like ``torch.nn.GELU()``.

    Shapes:
        trigger: ``(..., trigger_dim)``; context: ``(..., context_dim)``, or labels ``(...)``;
        message: ``(..., output_dim)``. A leading size of the context may be 1, if all places
        share it, and may be left out if that of the trigger is 1.

        The state of stacked recurrent layers is ``(layers, batch, width)``. Built for
        ``width``, one small synthesizer serves each layer separately; built for
        ``layers * width``, it sees the layers joined, as ``(batch, layers * width)``.

    Example:
        >>> synthesizer = dni.BasicSynthesizer(output_dim=4, n_hidden=1, context_classes=10)
        >>> synthesizer(torch.ones(2, 4), torch.tensor([3, 7]))
        tensor([[0., 0., 0., 0.],
                [0., 0., 0., 0.]], grad_fn=<AddmmBackward0>)
    """

    def __init__(
        self,
        output_dim: int,
        n_hidden: int = 0,
        hidden_dim: int | None = None,
        trigger_dim: int | None = None,
        context_dim: int | None = None,
        *,
        context_classes: int | None = None,
        bias: bool = True,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__(context_dim, context_classes, activation)
        who = type(self).__name__
        _checks.positive(who, output_dim=output_dim, hidden_dim=hidden_dim, trigger_dim=trigger_dim)
        _checks.hidden_count(n_hidden, who)
        self.output_dim = output_dim
        self.trigger_dim = trigger_dim or output_dim
        widths = [self.trigger_dim, *[hidden_dim or output_dim] * n_hidden, output_dim]
        layers = [nn.Linear(i, o, bias) for i, o in pairwise(widths)]
        self._build(layers, widths[1], bias)

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthetic message for ``trigger``."""
        if self._joins_layers(trigger):
            joined = self(trigger.transpose(0, 1).flatten(1), context)
            message: Tensor = joined.unflatten(1, (len(trigger), -1)).transpose(0, 1)
            return message
        _checks.feature_width(trigger, self.trigger_dim, type(self).__name__)
        return self._run(trigger, self._project(context, trigger.shape[:-1], trigger.dtype))

    def _joins_layers(self, trigger: Tensor) -> bool:
        """Whether ``trigger`` holds stacked layers that fit only when joined."""
        if trigger.dim() != 3 or self.output_dim != self.trigger_dim:
            return False
        layers, _, width = trigger.shape
        return layers > 1 and layers * width == self.trigger_dim
