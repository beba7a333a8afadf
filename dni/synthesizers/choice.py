"""Chooses a synthesizer for a message of which only the shape is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks
from dni.synthesizers.basic import BasicSynthesizer
from dni.synthesizers.centered import Centered
from dni.synthesizers.conv import ConvSynthesizer
from dni.synthesizers.loss import LossSynthesizer
from dni.synthesizers.maps import MapSynthesizer
from dni.synthesizers.tokens import TokenSynthesizer

WIDE, WIDER = 256, 1024  # least hidden width: for each of many places, for a whole sample


def synthesizer_for(
    output: Tensor,
    n_hidden: int | None = None,
    hidden: int | None = None,
    *,
    context_dim: int | None = None,
    context_classes: int | None = None,
) -> nn.Module:
    r"""A ready-made synthesizer for the gradient of ``output``, chosen by its shape.

    ======================================  =============================================
    ``output``                              synthesizer, in :class:`Centered`
    ======================================  =============================================
    ``(features,)``, ``(batch, features)``  :class:`BasicSynthesizer`
    ``(batch, time, features)``             :class:`TokenSynthesizer`
    ``(batch, channels, height, width)``    :class:`LossSynthesizer` if told labels,
    ..                                      else :class:`MapSynthesizer`
    ======================================  =============================================

    :func:`dni.decouple` uses it if it is given no synthesizer. It looks at the shape only: if
    the channels are in another dimension (``(batch, channels, length)``, ``(batch, height,
    width, channels)``), pass a synthesizer of your own.

    Args:
        output: the output of a module.
        n_hidden: number of hidden layers; 1 if left out. 0 is linear (for maps, a
            :class:`ConvSynthesizer` of 1 x 1, which cannot tell places apart). Maps with
            ``context_classes`` get a :class:`LossSynthesizer`, which has no hidden layer, if
            neither this nor ``hidden`` is given.
        hidden: width, or channels, of the hidden layers; if left out, those of ``output``, but
            at least 1024 for vectors and 256 for tokens and maps. Wide layers learn better,
            whatever the network's width (``docs/results.rst``); ``hidden=256`` is cheaper.
        context_dim, context_classes: see :class:`BasicSynthesizer`.

    Returns:
        a synthesizer on the device and with the dtype of ``output`` (under autocast, its
        parameters stay float32).

    Example:
        >>> dni.synthesizer_for(torch.empty(32, 16, 8, 8), context_classes=10).synthesizer.grid
        (8, 8)
        >>> dni.synthesizer_for(torch.empty(32, 100, 512), n_hidden=0).over
        (0, 1)
    """
    _checks.known_layout(output, "synthesizer_for")
    contexts: dict[str, Any] = {"context_dim": context_dim, "context_classes": context_classes}
    maps = output.dim() == 4
    width = output.shape[1 if maps else -1]
    over: int | tuple[int, ...] = (0, 1) if output.dim() == 3 else 0 if maps else -2
    if maps and context_classes is not None and n_hidden is hidden is None:
        return like(Centered(LossSynthesizer(output.shape[1:], context_classes), over), output)
    vectors, n_hidden = output.dim() < 3, 1 if n_hidden is None else n_hidden
    hidden = max(width, WIDER if vectors else WIDE) if hidden is None else hidden
    made: nn.Module
    if maps:
        made = (
            MapSynthesizer(tuple(output.shape[1:]), n_hidden, hidden, **contexts)
            if n_hidden
            else ConvSynthesizer(width, 0, kernel_size=1, **contexts)
        )
    else:
        kind = BasicSynthesizer if vectors else TokenSynthesizer
        made = kind(width, n_hidden, hidden, **contexts)
    return like(Centered(made, over), output)


def like(synthesizer: nn.Module, output: Tensor) -> nn.Module:
    """``synthesizer``, moved to the device and the dtype of ``output``."""
    narrowed = not output.is_meta and torch.is_autocast_enabled(output.device.type)
    return synthesizer.to(output.device, None if narrowed else output.dtype)
