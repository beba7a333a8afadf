"""Which synthesizer fits a message that nobody has described."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni import _checks
from dni.synthesizers.basic import BasicSynthesizer
from dni.synthesizers.conv import ConvSynthesizer
from dni.synthesizers.tokens import TokenSynthesizer


def synthesizer_for(
    output: Tensor,
    n_hidden: int = 1,
    hidden: int | None = None,
    *,
    context_dim: int | None = None,
    context_classes: int | None = None,
) -> nn.Module:
    r"""A ready-made synthesizer for the gradient of ``output``, chosen by its shape.

    ======================================  ======================================
    ``output``                              synthesizer
    ======================================  ======================================
    ``(features,)``, ``(batch, features)``  :class:`BasicSynthesizer`
    ``(batch, time, features)``             :class:`TokenSynthesizer`
    ``(batch, channels, height, width)``    :class:`ConvSynthesizer`, of 3 x 3
    ======================================  ======================================

    It is what :func:`dni.decouple` takes where it is given none. Only the shape is looked at:
    for channels in another place (``(batch, channels, length)``, ``(batch, height, width,
    channels)``) pass a synthesizer of your own.

    Args:
        output: what a module puts out.
        n_hidden: number of hidden layers; 0 is linear.
        hidden: their width, or channels; those of ``output`` if left out.
        context_dim, context_classes: see :class:`BasicSynthesizer`.

    Returns:
        a synthesizer on the device, and with the dtype, of ``output`` (of its parameters'
        own, float32, under autocast).

    Example:
        >>> dni.synthesizer_for(torch.empty(32, 16, 8, 8), context_classes=10).channels
        16
        >>> dni.synthesizer_for(torch.empty(32, 100, 512), n_hidden=0).output_dim
        512
    """
    _checks.known_layout(output, "synthesizer_for")
    made: nn.Module
    if output.dim() == 4:
        made = ConvSynthesizer(
            output.shape[1],
            n_hidden,
            hidden,
            kernel_size=3,
            context_dim=context_dim,
            context_classes=context_classes,
        )
    else:
        kind = TokenSynthesizer if output.dim() == 3 else BasicSynthesizer
        made = kind(
            output.shape[-1],
            n_hidden,
            hidden,
            context_dim=context_dim,
            context_classes=context_classes,
        )
    return like(made, output)


def like(synthesizer: nn.Module, output: Tensor) -> nn.Module:
    """``synthesizer`` where ``output`` is, in its dtype."""
    narrowed = torch.is_autocast_enabled(output.device.type)
    return synthesizer.to(output.device, None if narrowed else output.dtype)
