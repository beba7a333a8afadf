"""Interfaces after a module that returns several tensors, which cannot be joined."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dni import _trees
from dni.interfaces.backward import BackwardInterface


class EachTensor(nn.ModuleList):
    """One interface for each tensor of an output that required a gradient in the first batch."""

    def __init__(self, made: dict[_trees.Place, BackwardInterface]) -> None:
        super().__init__(made.values())
        self.places = list(made)

    def forward(self, output: Any) -> Any:
        """``output``, with these tensors cut."""
        return _trees.map_tensors(self._cut, output)

    def interfaces(self) -> dict[str, BackwardInterface]:
        """The interfaces, by their places as Python writes them."""
        named = zip(self.places, self, strict=True)
        return {_trees.written(place): one for place, one in named}  # type: ignore[misc]

    def _cut(self, place: _trees.Place, tensor: Tensor) -> Any:
        return self[self.places.index(place)](tensor) if place in self.places else tensor
