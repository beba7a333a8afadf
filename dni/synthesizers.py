r"""Synthesizers: small regression models that predict a message.

To an interface a synthesizer is any ``torch.nn.Module`` with

.. code-block:: python

    def forward(self, trigger, context):   # one tensor, any object
        return message                     # one tensor, of the message's shape

``trigger`` comes detached, ``context`` is what :func:`dni.synthesizer_context` was given,
or ``None``. The two ready-made ones are small networks whose last layer starts at zero,
weight *and* bias: until it has learnt, a synthesizer sends exactly nothing, and not
noise.

A context enters the first layer beside the trigger, so that "linear in
:math:`[h, c]`", the paper's synthesizer for cDNI, is ``n_hidden=0``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import _checks

__all__ = ["BasicSynthesizer", "Centered", "ConvSynthesizer"]


class _Synthesizer(nn.Module):
    """Layers over the sum of a trigger's and a context's projection.

    Subclasses say what a layer is, and where the features of a trigger lie.
    """

    input_trigger: nn.Module
    input_context: _ContextInput | None
    layers: nn.ModuleList

    def __init__(
        self,
        context_dim: int | None,
        context_classes: int | None,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        who = type(self).__name__
        _checks.activation(activation, who)
        self.activation = activation
        _checks.positive(who, context_dim=context_dim, context_classes=context_classes)
        self._context_dim = _checks.context_size(context_dim, context_classes, who)
        self._context_classes = context_classes
        self._context_ignored = False

    def _build(self, layers: Sequence[nn.Module], first_width: int, bias: bool) -> None:
        first, *rest = layers
        self.input_trigger = first
        self.input_context = None
        if self._context_dim is not None:
            self.input_context = _ContextInput(
                self._context_dim, first_width, bias, self._context_classes, type(self).__name__
            )
        self.layers = nn.ModuleList(rest)
        last = [rest[-1]] if rest else [first, self.input_context]
        for layer in last:
            for parameter in layer.parameters() if layer is not None else ():
                nn.init.zeros_(parameter)

    def _run(self, trigger: Tensor, projected_context: Tensor | None) -> Tensor:
        message: Tensor = self.input_trigger(trigger)
        if projected_context is not None:
            message = message + projected_context
        for layer in self.layers:
            message = layer(self.activation(message))
        return message

    def _project(self, context: Any, leading: torch.Size, dtype: torch.dtype) -> Tensor | None:
        if self.input_context is not None:
            return self.input_context(context, leading, dtype)  # type: ignore[no-any-return]
        if context is not None and not self._context_ignored and not torch.compiler.is_compiling():
            self._context_ignored = True
            warnings.warn(
                f"{type(self).__name__}: built without a context, so the one given is ignored; "
                "pass context_dim or context_classes to use it.",
                stacklevel=2,
            )
        return None


class BasicSynthesizer(_Synthesizer):
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
        context_dim: width of a context vector; left out, a context is ignored.
        context_classes: number of classes, where the context is a tensor of integer
            labels: a column of :math:`W_c` per class, and nobody writes one-hot code.
        bias: whether the layers have one.
        activation: :math:`\varphi`; a function, or a module like ``torch.nn.GELU()``.

    Shapes:
        trigger: ``(..., trigger_dim)``; context: ``(..., context_dim)``, or labels
        ``(...)``, whose sizes may be 1 where all places share them, and may be left out
        where the trigger's first sizes are 1; message: ``(..., output_dim)``.

        The state of stacked recurrent layers, ``(layers, batch, width)``: built for
        ``width``, one small synthesizer serves every layer apart; built for
        ``layers * width``, one sees the layers joined, ``(batch, layers * width)``.

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
        """Whether ``trigger`` holds stacked layers that fit only side by side."""
        if trigger.dim() != 3 or self.output_dim != self.trigger_dim:
            return False
        layers, _, width = trigger.shape
        return layers > 1 and layers * width == self.trigger_dim


class ConvSynthesizer(_Synthesizer):
    r"""A stack of convolutions over maps; a context is broadcast over space.

    The equation of :class:`BasicSynthesizer`, with convolutions of equal output size for
    :math:`W_t` and :math:`W_k`.

    Args:
        channels: channels of trigger and message.
        n_hidden: number of hidden layers; 0 is one convolution.
        hidden_channels: their channels; ``channels`` if left out.
        kernel_size: odd, so that height and width stay (the paper: 5).
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


class Centered(nn.Module):
    r"""A synthesizer without the part of its messages that all rows of a batch share.

    .. math::
        s_b = S(h_b, c_b) - \frac{1}{B} \sum_{k=1}^{B} S(h_k, c_k)

    For recurrent networks, where a synthesizer learns from its own predictions. What it
    says to every row alike moves all states the same way, window after window, and comes
    back in its bootstrapped target: a drift that no loss holds. Without it, language models
    that diverged train, and digits read row by row gain (``benchmarks/README.rst``).

    Args:
        synthesizer: any synthesizer whose messages have the batch in the last dimension but
            one, as the states of PyTorch's recurrent modules do. A batch of one row is left
            as it is.

    Example:
        >>> synthesizer = dni.Centered(torch.nn.Bilinear(2, 1, 2))
        >>> message = synthesizer(torch.randn(5, 2), torch.ones(5, 1))
        >>> message.mean(0).abs().max() < 1e-6
        tensor(True)
    """

    def __init__(self, synthesizer: nn.Module) -> None:
        super().__init__()
        _checks.is_synthesizer(synthesizer, type(self).__name__)
        self.synthesizer = synthesizer

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthetic message for ``trigger``."""
        message: Tensor = self.synthesizer(trigger, context)
        _checks.is_tensor(message, self.synthesizer, type(self).__name__)
        if message.dim() < 2 or message.shape[-2] == 1:
            return message
        return message - message.mean(-2, keepdim=True)


class _ContextInput(nn.Linear):
    """The projection of a context: of a vector, or of a label as its one-hot vector."""

    def __init__(
        self, width: int, out_features: int, bias: bool, classes: int | None, who: str
    ) -> None:
        super().__init__(width, out_features, bias)
        self.classes = classes
        self.who = who

    def forward(self, context: Any, leading: torch.Size, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        _checks.context_given(context, self.in_features, self.who)
        labels = not context.is_floating_point()
        if labels:
            _checks.labels_allowed(context, self.classes, self.in_features, self.who)
        _checks.context_shape(leading, self.in_features, context, labels, self.who)
        if not labels:
            return super().forward(context.to(dtype))
        try:  # a column per class: the product with the one-hot vector, without making it
            projected = F.embedding(context.long(), self.weight.t())
        except IndexError as error:
            _checks.labels_in_range(error, context, self.in_features, self.who)
        return projected if self.bias is None else projected + self.bias
