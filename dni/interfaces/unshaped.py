"""Where an interface will stand once a batch has shown the shape of its messages.

A synthesizer has the width of the message that it predicts, and only a forward pass knows
that. Until the first one an :class:`Unshaped` module holds the place, and a placeholder
that of its parameters (:mod:`dni.interfaces.optimizers`).
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
    """Holds the place of what ``make`` will build for the tensors of a first output.

    Args:
        make: from the places and tensors that have a gradient, what stands here.
        name: of the module before this place.
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
        """What to put here instead."""
        return self.becomes(self.build(output))

    def build(self, output: Any) -> nn.Module:
        """What could stand here; nothing knows of it yet."""
        _checks.shaped_before_compiling(torch.compiler.is_compiling(), self.name)
        pairs = learning(output, self.name)
        with same_random_state(tensor for _, tensor in pairs):
            return self.make(pairs)

    def becomes(self, made: nn.Module) -> nn.Module:
        """``made``, which whoever knows this place knows from now on."""
        made.train(self.training)
        if not self.placeholder.requires_grad:  # frozen while it waited
            made.requires_grad_(False)
        self.placeholder.become(list(made.parameters()))
        watch(made)
        return made

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """There is nothing to save yet."""

    def _load_from_state_dict(self, state: Any, prefix: str, *_: Any) -> None:
        """A plain network's checkpoint has nothing for this place; another does not fit."""
        _checks.shaped_before_loading(any(key.startswith(prefix) for key in state), self.name)


def learning(output: Any, name: str) -> Pairs:
    """The tensors of an output that have a gradient."""
    pairs = [(place, tensor) for place, tensor in _trees.tensors(output) if tensor.requires_grad]
    _checks.something_to_cut(bool(pairs), output, name)
    return pairs


def same_random_state(tensors: Iterable[Tensor]) -> Any:
    """Random numbers drawn inside are drawn again outside: training goes on as without."""
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    return torch.random.fork_rng(devices=list(devices))


def waiting(model: nn.Module) -> list[str]:
    """The names of the places that have no interface yet."""
    return [module.name for module in model.modules() if isinstance(module, Unshaped)]
