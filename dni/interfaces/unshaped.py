"""The place of an interface until a batch has shown the shape of its messages.

A synthesizer has the width of the message that it predicts, and only a forward pass shows
that. Until the first one, an :class:`Unshaped` module stands in for the interface, and a
placeholder for its parameters (:mod:`dni.interfaces.optimizers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks, _trees
from dni.interfaces.optimizers import Placeholder, watch

Pairs = list[tuple[_trees.Place, Tensor]]


class Unshaped(nn.Module):
    """Stands in for what ``make`` will build from the tensors of the first output.

    Args:
        make: builds what will stand here, from the tensors that require grad and their places.
        name: that of the module before this place.
        options: the arguments of the interfaces to come.
    """

    def __init__(
        self, make: Callable[[Pairs], nn.Module], name: str, options: dict[str, Any]
    ) -> None:
        super().__init__()
        self.make = make
        self.name = name
        self.options = options
        self.placeholder = Placeholder()

    def shape(self, output: Any) -> nn.Module:
        """Build what takes this place, and hand the place over to it."""
        return self.becomes(self.build(output))

    def build(self, output: Any) -> nn.Module:
        """Build what could take this place; nothing knows of it yet."""
        _checks.shaped_before_compiling(torch.compiler.is_compiling(), self.name)
        pairs = learning(output, self.name)
        with same_random_state(tensor for _, tensor in pairs):
            return self.make(pairs)

    def becomes(self, made: nn.Module) -> nn.Module:
        """Hand this place over to ``made``, and its placeholder to the parameters of ``made``."""
        made.train(self.training)
        if not self.placeholder.requires_grad:  # frozen while it waited
            made.requires_grad_(False)
        self.placeholder.become(list(made.parameters()))
        watch(made)
        return made

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """There is nothing to save yet."""

    def _load_from_state_dict(self, state: Any, prefix: str, *_: Any) -> None:
        """A plain network's checkpoint has nothing for this place; any other is refused."""
        _checks.shaped_before_loading(any(key.startswith(prefix) for key in state), self.name)


def learning(output: Any, name: str) -> Pairs:
    """The tensors of an output that require grad, with their places."""
    pairs = [(place, tensor) for place, tensor in _trees.tensors(output) if tensor.requires_grad]
    _checks.something_to_cut(bool(pairs), output, name)
    return pairs


def same_random_state(tensors: Iterable[Tensor]) -> Any:
    """Restore the random state after the block, so that training goes on as without it."""
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    return torch.random.fork_rng(devices=list(devices))


def waiting(model: nn.Module) -> list[str]:
    """The names of the places that have no interface yet."""
    return [module.name for module in model.modules() if isinstance(module, Unshaped)]
