"""A model's parameters in two groups: its own, and those of its synthesizers.

A synthesizer chases a moving target with gradients of its own, and often wants a rate,
an optimiser or a clipping of its own. Sorting parameters by *name* breaks with the first
renamed attribute; the interfaces know which modules are synthesizers.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dni.interfaces import UnidirectionalInterface
from dni.interfaces.unshaped import Unshaped

__all__ = ["base_parameters", "parameter_groups", "synthesizer_parameters"]


def synthesizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all synthesizers in ``model``, each once.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(2, 3),
        ...     dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3)),
        ...     torch.nn.Linear(3, 1),
        ... )
        >>> optimizer = torch.optim.Adam(
        ...     [
        ...         {"params": dni.base_parameters(model), "lr": 1e-3},
        ...         {"params": dni.synthesizer_parameters(model), "lr": 1e-4},
        ...     ]
        ... )
        >>> [len(group["params"]) for group in optimizer.param_groups]
        [4, 2]
    """
    found: dict[nn.Parameter, None] = {}
    for module in model.modules():
        if isinstance(module, Unshaped):
            found.update(dict.fromkeys(module.parameters()))
        elif isinstance(module, UnidirectionalInterface):
            found.update(dict.fromkeys(module.synthesizer.parameters()))
    return list(found)


def base_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All other parameters of ``model``: those that it would have without interfaces.

    Example:
        >>> interface = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3))
        >>> dni.base_parameters(interface)
        []
    """
    synthesizers = set(synthesizer_parameters(model))
    return [parameter for parameter in model.parameters() if parameter not in synthesizers]


def parameter_groups(model: nn.Module, **synthesizers: Any) -> list[dict[str, Any]]:
    """Both groups, as an optimiser takes them; ``synthesizers`` are options for the second.

    Example:
        >>> cut = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3))
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), cut, torch.nn.Linear(3, 1))
        >>> optimizer = torch.optim.Adam(dni.parameter_groups(model, lr=1e-2), lr=1e-3)
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.001, 0.01]
    """
    return [
        {"params": base_parameters(model)},
        {"params": synthesizer_parameters(model), **synthesizers},
    ]
