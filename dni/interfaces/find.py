"""The interfaces of a model, wherever they stand."""

from __future__ import annotations

from torch import nn

from dni.interfaces.unidirectional import UnidirectionalInterface

ATTRIBUTE = "dni_interface"  # of a decoupled module: the interface behind it


def interfaces_of(model: nn.Module) -> dict[str, UnidirectionalInterface]:
    """All interfaces in ``model`` by their names: those written into it, and those attached.

    An interface that :func:`dni.decouple` attached is called like the module that it stands
    behind; one without a shape yet is not there.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> model = dni.decouple(model, at="0", sample=torch.randn(3, 4), mix=1.0)
        >>> for interface in dni.interfaces_of(model).values():
        ...     interface.mix = 0.5    # observed for long enough
        >>> model[0].dni_interface.mix
        0.5
    """
    return {
        ".".join(part for part in name.split(".") if part != ATTRIBUTE): module
        for name, module in model.named_modules()
        if isinstance(module, UnidirectionalInterface)
    }
