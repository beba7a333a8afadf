"""The interfaces of a model, wherever they stand."""

from __future__ import annotations

from torch import nn

from dni import _checks
from dni.interfaces.several import EachTensor
from dni.interfaces.unidirectional import UnidirectionalInterface

ATTRIBUTE = "dni_interface"  # the child that cuts the output of a decoupled module
HOOK = "dni_hook"  # the handle of the hook that calls it


def attached_to(module: nn.Module) -> nn.Module | None:
    """What was attached after ``module``, if anything was."""
    return dict(module.named_children()).get(ATTRIBUTE) if HOOK in vars(module) else None


def interfaces_of(model: nn.Module) -> dict[str, UnidirectionalInterface]:
    """All interfaces in ``model`` by name: those written into it, and those attached.

    An interface that :func:`dni.decouple` attached has the name of the module that it is
    attached to (``"core[1][0]"`` if that module returns several tensors). An interface that
    still waits for its shape is left out.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> model = dni.decouple(model, at="0", sample=torch.randn(3, 4), mix=1.0)
        >>> for interface in dni.interfaces_of(model).values():
        ...     interface.mix = 0.5    # observed for long enough
        >>> model[0].dni_interface.mix
        0.5
    """
    _checks.is_model(model, "dni.interfaces_of")
    found: dict[str, UnidirectionalInterface] = {}
    for name, module in model.named_modules():
        plain = ".".join(part for part in name.split(".") if part != ATTRIBUTE)
        if isinstance(module, EachTensor):
            found |= {plain + place: one for place, one in module.interfaces().items()}
        elif isinstance(module, UnidirectionalInterface) and module not in found.values():
            found[plain] = module
    return found
