"""A network in parts, and made whole again.

A part has to run where the others are not, so it must be a module by itself. In a ``Sequential``,
any children in a row are such a module, and its output is the input of the next part. Each part
keeps the containers around its children, and with them the names: the ``state_dict`` of all parts
together is that of the whole::

    features.0  features.1 | features.2  classifier        at = ["features.1"]
    '---- part 0 --------'   '------ part 1 ------'
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from dni import _checks

__all__ = ["merge", "split"]


def split(model: nn.Module, at: Sequence[str]) -> list[nn.Sequential]:
    """The parts of ``model`` between the modules ``at``.

    Args:
        model: an ``nn.Sequential``; cuts may also lie inside a nested ``nn.Sequential``.
        at: names of modules, in the order of the forward pass; a cut is made after each.

    Returns:
        the parts, one more than there are cuts. They share the modules of ``model``; run one
        after another, they compute what ``model`` does.

    Example:
        >>> layers = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        >>> model = torch.nn.Sequential(*layers)
        >>> bottom, top = dni.distributed.split(model, at=["1"])
        >>> list(top.state_dict())
        ['2.weight', '2.bias']
    """
    parts: list[nn.Sequential] = []
    rest = _checks.sequential(model, "", "dni.distributed.split")
    for name in at:
        _checks.cut_is_in(name, rest, model, "dni.distributed.split")
        part, rest = _cut(rest, name.split("."))
        parts.append(part)
    parts.append(rest)
    _checks.parts_stand_alone(parts, "dni.distributed.split")
    return parts


def _cut(
    module: nn.Sequential, path: list[str], name: str = ""
) -> tuple[nn.Sequential, nn.Sequential]:
    """The children up to ``path``, and those after it."""
    first, *deeper = path
    before: list[tuple[str, nn.Module]] = []
    after: list[tuple[str, nn.Module]] = []
    for child_name, child in module._modules.items():  # named_children() leaves repetitions out
        assert child is not None
        (after if any(seen == first for seen, _ in before) else before).append((child_name, child))
    if deeper:
        whole = f"{name}.{first}" if name else first
        inner = _checks.sequential(before[-1][1], whole, "dni.distributed.split")
        lower, upper = _cut(inner, deeper, whole)
        before[-1] = (first, lower)
        after[:0] = [(first, upper)] if len(upper) else []
    return nn.Sequential(OrderedDict(before)), nn.Sequential(OrderedDict(after))


def merge(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the ``state_dict`` of all parts into one that loads into the whole model.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> parts = dni.distributed.split(model, at=["0"])
        >>> model.load_state_dict(dni.distributed.merge(part.state_dict() for part in parts))
        <All keys matched successfully>
    """
    merged: dict[str, Any] = {}
    for state in states:
        _checks.merges(merged, state, "dni.distributed.merge")
        merged |= state
    return merged
