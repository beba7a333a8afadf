"""A synthesizer that does not drift."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dni import _checks


class Centered(nn.Module):
    r"""Removes from a synthesizer's messages the part that all rows of a batch share.

    .. math::
        u_b = S(h_b, c_b) - \frac{1}{B} \sum_{k=1}^{B} S(h_k, c_k)

    What a synthesizer says to every row alike moves all activations the same way, step after
    step: a drift that no loss stops. In front of batch norm the real gradient has no such part
    at all. In a recurrent network the part also comes back in the bootstrapped target. With it
    removed, language models that diverged do train, and digits read row by row are learnt better
    (``benchmarks/README.rst``).

    Args:
        synthesizer: any synthesizer.
        over: the dimensions of its messages that count the rows: -2 for features, and for the
            states of PyTorch's recurrent modules; ``(0, 1)`` for tokens; for maps 0, which
            treats each place by itself, or ``(0, 2, 3)``. A batch of one row is left as it is.

    Shapes:
        trigger, context and message: those of ``synthesizer``.

    Example:
        >>> synthesizer = dni.Centered(torch.nn.Bilinear(2, 1, 2))
        >>> message = synthesizer(torch.randn(5, 2), torch.ones(5, 1))
        >>> message.mean(0).abs().max() < 1e-6
        tensor(True)
    """

    def __init__(self, synthesizer: nn.Module, over: int | tuple[int, ...] = -2) -> None:
        super().__init__()
        _checks.is_synthesizer(synthesizer, type(self).__name__)
        self.synthesizer = synthesizer
        self.over = (over,) if isinstance(over, int) else tuple(over)
        self.own_scale = bool(getattr(synthesizer, "own_scale", False))

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthetic message for ``trigger``."""
        message: Tensor = self.synthesizer(trigger, context)
        _checks.is_tensor(message, self.synthesizer, type(self).__name__)
        _checks.rows_in(message, self.over, type(self).__name__)
        if message.dim() < 2 or all(message.shape[dim] == 1 for dim in self.over):
            return message
        return message - message.mean(self.over, keepdim=True)
