"""What the ready-made synthesizers share: layers over a trigger and a context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import _checks


class Layers(nn.Module):
    """Layers over the sum of the projections of a trigger and a context.

    Subclasses say what a layer is, and where the features of a trigger lie.
    """

    input_trigger: nn.Module
    input_context: ContextInput | None
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
            self.input_context = ContextInput(
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
            _checks.context_ignored(type(self).__name__, "pass context_dim or context_classes")
        return None


class ContextInput(nn.Linear):
    """Projects a context: a vector, or a label as if it were its one-hot vector."""

    def __init__(
        self, width: int, out_features: int, bias: bool, classes: int | None, who: str
    ) -> None:
        super().__init__(width, out_features, bias)
        self.classes = classes
        self.who = who

    def forward(self, context: Any, leading: torch.Size, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        """The projection, for a trigger with these ``leading`` sizes."""
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
