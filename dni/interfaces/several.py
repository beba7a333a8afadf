"""Interfaces after a module that puts out several tensors, which nothing can join."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dni import _trees
from dni.interfaces.backward import BackwardInterface


class EachTensor(nn.ModuleList):
    """One interface for each of the ``places`` in an output that had a gradient at first."""

    def __init__(self, made: dict[_trees.Place, BackwardInterface]) -> None:
        super().__init__(made.values())
        self.places = list(made)

    def forward(self, output: Any) -> Any:
        """``output``, cut at these places."""
        return _trees.map_tensors(self._cut, output)

    def interfaces(self) -> dict[str, BackwardInterface]:
        """All of them, by the places as Python writes them."""
        named = zip(self.places, self, strict=True)
        return {_trees.written(place): one for place, one in named}  # type: ignore[misc]

    def _cut(self, place: _trees.Place, tensor: Tensor) -> Any:
        return self[self.places.index(place)](tensor) if place in self.places else tensor
