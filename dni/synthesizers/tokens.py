"""A synthesizer for sequences whose labels may belong to the whole sequence."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dni.synthesizers.basic import BasicSynthesizer


class TokenSynthesizer(BasicSynthesizer):
    r"""A :class:`BasicSynthesizer` for each token of ``(batch, time, features)``.

    Each token is predicted separately, with the same weights,

    .. math:: \text{message}_{b t} = S(h_{b t}, c_{b t}) .

    There may be one context per token, such as the next word in a language model, or one
    per sequence, such as the label of a document, which all its tokens then share. (For the
    latter, a second dimension of 1 is allowed.)

    Args:
        output_dim, n_hidden, hidden_dim, trigger_dim: see :class:`BasicSynthesizer`.
        context_dim, context_classes, bias, activation: likewise.

    Shapes:
        trigger and message: ``(batch, time, features)``; labels: ``(batch, time)`` or
        ``(batch,)``; vectors: these and ``context_dim``.

    Example:
        >>> synthesizer = dni.TokenSynthesizer(output_dim=8, context_classes=10)
        >>> synthesizer(torch.ones(2, 5, 8), torch.tensor([3, 7])).shape
        torch.Size([2, 5, 8])
    """

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthetic message for ``trigger``."""
        if trigger.dim() == 3 and isinstance(context, Tensor) and self.input_context is not None:
            per_sequence = 2 if context.is_floating_point() else 1
            if context.dim() == per_sequence and len(context) == len(trigger):
                context = context.unsqueeze(1)
        return super().forward(trigger, context)
