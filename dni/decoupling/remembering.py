"""A :class:`dni.DNINetwork` as the synthesizer of an interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks, _trees


class Remembering(nn.Module):
    """A :class:`DNINetwork` as the synthesizer of an interface; holds its ``hidden``.

    Args:
        network: the network that predicts.
        conditioned: whether its input has a context beside the activation.
        classes: number of classes, if the context is labels.
    """

    def __init__(self, network: nn.Module, conditioned: bool, classes: int | None) -> None:
        super().__init__()
        self.network = network
        self.conditioned = conditioned
        self.classes = classes
        self.warned = False
        self.hidden: Any = None  # from the last call in a forward pass of so many rows:
        self.rows = 0

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthetic message for ``trigger``."""
        if len(trigger) != self.rows:
            self.hidden, self.rows = None, len(trigger)
        move = trigger.dim() == 4 and not getattr(self.network, "maps", False)
        input = trigger
        if not self.conditioned and context is not None and not self.warned:
            self.warned = True
            _checks.context_ignored("DNI", "wrap with CDNI")
        if self.conditioned:
            told = as_features(context, self.classes, trigger)
            input = torch.cat([trigger, told], dim=feature_dim(trigger))
        answer = self.network(input.movedim(1, -1) if move else input, self.hidden)
        message, hidden = _checks.pair(answer, self.network)
        self.hidden = _detached(hidden)
        return message.movedim(-1, 1) if move else message


def feature_dim(output: Tensor) -> int:
    """The dimension of an output's features: for maps, the channels."""
    return 1 if output.dim() == 4 else -1


def as_features(context: Any, classes: int | None, output: Tensor) -> Tensor:
    """A context as features to put beside ``output``: labels as one-hot, expanded to fit."""
    _checks.context_of_wrapper(context, classes)
    if not context.is_floating_point():
        assert classes is not None
        try:
            context = nn.functional.one_hot(context.long(), classes)
        except RuntimeError as error:
            _checks.labels_in_range(error, context, classes, "CDNI")
    told: Tensor = context.to(output)
    size, places = told.shape[-1], output.shape[:1] if output.dim() == 4 else output.shape[:-1]
    if told.dim() > output.dim() and told.shape[-1 - len(places) : -1] == places:
        told = told.flatten(0, -2 - len(places)).mean(0)  # rows share output: learnt positions
    _checks.context_rows(told, places, output)
    if output.dim() == 4:
        return told[..., None, None].expand(-1, size, *output.shape[2:])
    while told.dim() < output.dim():  # one for a whole sequence; or for stacked layers
        told = told.unsqueeze(-2 if len(told) == len(output) else 0)
    return told.expand(*output.shape[:-1], size)


def _detached(hidden: Any) -> Any:
    """``hidden`` without its graph, in any structure."""
    return _trees.map_tensors(lambda _, tensor: tensor.detach(), hidden)
