r"""The synthesizers of :class:`dni.DNI`: networks that may have a memory.

They are called as ``network(input, hidden)`` and return ``(output, hidden)``. ``hidden`` is
whatever the network wants back at its next call in the same forward pass; it is ``None`` at the
first. Their last layer starts at zero: a new synthesizer sends nothing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from dni import _checks


class DNINetwork(nn.Module):
    r"""A network that predicts a gradient; the base class for your own.

    .. math:: (s, \mathit{hidden}') = S(h, \mathit{hidden})

    Features are in the last dimension of ``input`` and ``output``, also for the maps of a
    convolution, which come as ``(N, H, W, C)``; if ``maps`` is true, they come as
    ``(N, C, H, W)``. Each call of the wrapper starts a new forward pass, in which ``hidden`` is
    ``None`` at first; calling the wrapper's methods does not.

    Args:
        input_size: features of the input: those of the activation, and under :class:`CDNI`
            also those of the context.
        hidden_size: the one that :class:`DNI` was given.
        output_size: features of the output: those of the activation.

    Shapes:
        input: ``(..., input_size)``; output: ``(..., output_size)``; hidden: anything.

    Example:
        >>> class Scaled(dni.DNINetwork):
        ...     def __init__(self, input_size, hidden_size, output_size):
        ...         super().__init__(input_size, hidden_size, output_size)
        ...         self.scale = torch.nn.Parameter(torch.zeros(output_size))
        ...
        ...     def forward(self, input, hidden):
        ...         return self.scale * input, None
        >>> net = dni.DNI(torch.nn.Linear(2, 3), dni_network=Scaled)
        >>> net(torch.ones(1, 2)).sum().backward()
        >>> dni.synthesizer_parameters(net)[0].detach() != 0    # learnt already
        tensor([True, True, True])
    """

    maps = False

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        who = type(self).__name__
        _checks.positive(
            who, input_size=input_size, hidden_size=hidden_size, output_size=output_size
        )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = output_size

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        """The synthetic gradient, and what to pass as ``hidden`` at the next call."""
        raise NotImplementedError(f"{type(self).__name__} needs a forward(input, hidden)")


class LinearDNI(DNINetwork):
    r"""``Linear -> ReLU``, ``num_layers`` times, then ``Linear``.

    .. math:: z_0 = h, \qquad z_{k+1} = \max(0, W_k z_k + b_k), \qquad s = W z_K + b

    Args:
        input_size, hidden_size, output_size: see :class:`DNINetwork`.
        num_layers: number of hidden layers; 0 is linear.
        bias: whether the layers have a bias.

    Shapes:
        input: ``(..., input_size)``; output: ``(..., output_size)``.

    Example:
        >>> dni.LinearDNI(4, 10, 3, num_layers=0)(torch.ones(2, 4), None)[0].shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 2,
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        _checks.layer_count(num_layers, type(self).__name__)
        widths = [input_size, *[hidden_size] * num_layers]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o, bias), *self.between(o), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.final = silent(nn.Linear(widths[-1], output_size, bias))

    def between(self, width: int) -> list[nn.Module]:
        """The modules between a layer and its activation."""
        return []

    def forward(self, input: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """The synthetic gradient; no memory."""
        flat = self.layers(input.reshape(-1, self.input_size))
        message: Tensor = self.final(flat).view(*input.shape[:-1], self.output_size)
        return message, None


class LinearSigmoidDNI(LinearDNI):
    r""":class:`LinearDNI`, with a sigmoid :math:`\sigma` over its output.

    For losses whose gradient is bounded, such as a log loss. Gradients may have either sign, and a
    new synthesizer sends nothing, so the output is :math:`2 \sigma(x) - 1`.

    Shapes:
        as for :class:`LinearDNI`.

    Example:
        >>> dni.LinearSigmoidDNI(4, 10, 3)(torch.ones(1, 4), None)[0]
        tensor([[0., 0., 0.]], grad_fn=<SubBackward0>)
    """

    def forward(self, input: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """The synthetic gradient, between -1 and 1; no memory."""
        message, _ = super().forward(input, hidden)
        return 2 * message.sigmoid() - 1, None


class LinearBatchNormDNI(LinearDNI):
    r"""``Linear -> BatchNorm1d -> ReLU``, ``num_layers`` times, then ``Linear``.

    .. math::
        z_0 = h, \qquad z_{k+1} = \max\big(0, \mathrm{BN}(W_k z_k + b_k)\big), \qquad s = W z_K + b

    Shapes:
        as for :class:`LinearDNI`.

    Example:
        >>> dni.LinearBatchNormDNI(4, 10, 3)(torch.ones(2, 4), None)[0].shape
        torch.Size([2, 3])
    """

    def between(self, width: int) -> list[nn.Module]:
        """Batch norm."""
        return [nn.BatchNorm1d(width)]


class RNNDNI(DNINetwork):
    r"""Stacked LSTMs, GRUs or RNNs over the sequence, then ``Linear``.

    .. math::
        z_t, \mathit{hidden}_t = \mathrm{RNN}(h_t, \mathit{hidden}_{t-1}), \qquad s_t = W z_t + b

    ``(batch, time, features)`` is read along time. ``(batch, features)`` is one step, and the
    next call in the same forward pass continues from it: for a cell that is called in a loop.

    Args:
        input_size, hidden_size, output_size: see :class:`DNINetwork`.
        num_layers: number of stacked layers, at least 1.
        bias: whether they have a bias.
        kind: ``"lstm"``, ``"gru"`` or ``"rnn"``.

    Shapes:
        input: ``(batch, time, input_size)`` or ``(batch, input_size)``; output: the same with
        ``output_size``; hidden: the state of the recurrent core.

    Example:
        >>> message, hidden = dni.RNNDNI(4, 10, 3, kind="gru")(torch.ones(2, 7, 4), None)
        >>> message.shape, hidden.shape
        (torch.Size([2, 7, 3]), torch.Size([1, 2, 10]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        bias: bool = True,
        kind: str = "lstm",
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        kinds: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
        who = type(self).__name__
        _checks.positive(who, num_layers=num_layers)
        _checks.one_of("kind", kind, tuple(kinds), who)
        self.core = kinds[kind](input_size, hidden_size, num_layers, bias=bias, batch_first=True)
        self.final = silent(nn.Linear(hidden_size, output_size, bias))

    def forward(self, input: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """The synthetic gradient, and the state after the last step."""
        steps = input.flatten(1, -2) if input.dim() > 2 else input.unsqueeze(1)
        seen, hidden = self.core(steps, hidden)
        message: Tensor = self.final(seen).view(*input.shape[:-1], self.output_size)
        return message, hidden


class Conv2dDNI(DNINetwork):
    r"""``Conv2d -> BatchNorm2d -> pooling -> ReLU``, ``num_layers`` times, ``Conv2d -> AvgPool2d``.

    .. math::
        z_0 = h, \qquad z_{k+1} = \max\big(0, \mathrm{pool}(\mathrm{BN}(W_k \ast z_k))\big), \qquad
        s = \mathrm{avg}(W \ast z_K)

    Kernels of 3, and pooling with a stride of 1: a gradient has the size of its maps.

    Args:
        input_size, output_size: channels.
        hidden_size: channels of the hidden layers.
        num_layers: number of hidden layers; 0 is linear.
        bias: whether the convolutions have a bias.
        pool: ``"max"`` or ``"avg"``.

    Shapes:
        input: ``(N, input_size, H, W)``; output: ``(N, output_size, H, W)``.

    Example:
        >>> dni.Conv2dDNI(4, 10, 3)(torch.ones(2, 4, 5, 5), None)[0].shape
        torch.Size([2, 3, 5, 5])
    """

    maps = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        bias: bool = True,
        pool: str = "max",
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        who = type(self).__name__
        _checks.layer_count(num_layers, who)
        _checks.one_of("pool", pool, ("max", "avg"), who)
        pooling = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
        widths = [input_size, *[hidden_size] * num_layers]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [
                nn.Conv2d(i, o, 3, padding=1, bias=bias),
                nn.BatchNorm2d(o),
                pooling(3, stride=1, padding=1),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.final = silent(nn.Conv2d(widths[-1], output_size, 3, padding=1, bias=bias))
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)

    def forward(self, input: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """The synthetic gradient of maps; no memory."""
        return self.pool(self.final(self.layers(input))), None


def silent(layer: nn.Module) -> nn.Module:
    """``layer``, with all parameters zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
