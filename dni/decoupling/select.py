"""Which modules ``at`` means: names, patterns, types, leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from torch import nn

from dni import _checks
from dni.interfaces import UnidirectionalInterface
from dni.interfaces.find import ATTRIBUTE

INNER = (ATTRIBUTE, "parametrizations")  # children that do not count as parts of a module
One: TypeAlias = str | type[nn.Module]
At: TypeAlias = One | Iterable[One]


class Places(NamedTuple):
    """Where interfaces go."""

    modules: dict[str, nn.Module]
    """The modules by name, each once, in the order of the model."""
    named: set[str]
    """Those that were asked for by their own name."""
    leaves: set[str]
    """Those that were asked for only as ``"leaves"``."""
    last: str | None
    """The leaf among them that was registered last: the head, unless a sample shows another."""


def select(model: nn.Module, at: At, who: str) -> Places:
    """The places after the modules that ``at`` means."""
    _checks.is_model(model, who)
    known = dict(modules(model))
    wanted: dict[nn.Module, list[One]] = {}
    for one in _checks.places(at, who):
        for module in _meant(one, known, who):
            wanted.setdefault(module, []).append(one)
    asked: dict[str, list[One]] = {}
    places = Places({}, set(), set(), None)
    seen: set[nn.Module] = set()
    for first, module in known.items():
        if module in wanted and module not in seen:
            seen.add(module)
            name, end = end_of(first, module, who)
            places.modules[name] = end
            asked.setdefault(name, []).extend(wanted[module])
    for name, ones in asked.items():
        if all(one == "leaves" for one in ones):
            places.leaves.add(name)
        elif any(isinstance(one, str) and one in known for one in ones):
            places.named.add(name)
    last = leaves(known)[-1:]
    ends = {name for name in places.leaves if places.modules[name] in last}
    return places._replace(last=next(iter(ends), None))


def modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All names of all modules, except interfaces, parametrizations, and what is inside these."""
    inside = None
    for name, module in model.named_modules(remove_duplicate=False):
        if inside is not None and name.startswith(inside):
            continue
        if isinstance(module, UnidirectionalInterface) or name.split(".")[-1] in INNER:
            inside = f"{name}." if name else ""
        else:
            yield name, module


def leaves(known: dict[str, nn.Module]) -> list[nn.Module]:
    """The modules without children that have something to train."""
    found = {
        module: None
        for module in known.values()
        if all(key in INNER for key, _ in module.named_children()) and _trains(module)
    }
    return list(found)


def _trains(leaf: nn.Module) -> bool:
    """Whether it has parameters of its own to train, parametrized or not."""
    return any(
        parameter.requires_grad
        for name, parameter in leaf.named_parameters()
        if not name.startswith(f"{ATTRIBUTE}.")
    )


def runs(module: nn.Module) -> bool:
    """Whether the module has a ``forward``; ``nn.ModuleList``, for one, has none."""
    return type(module).forward is not nn.Module.forward


def end_of(name: str, module: nn.Module, who: str) -> tuple[str, nn.Module]:
    """The module that an interface after ``module`` can live in: for a chain, its last link.

    ``nn.Sequential`` calls all its children, and would call the interface too.
    """
    while type(module).forward is nn.Sequential.forward:
        children = [(key, child) for key, child in module.named_children() if key != ATTRIBUTE]
        _checks.not_empty(bool(children), name, who)
        key, module = children[-1]
        name = f"{name}.{key}" if name else key
    _checks.has_a_place(module, runs(module), name, who)
    return name, module


def _meant(one: One, known: dict[str, nn.Module], who: str) -> Iterable[nn.Module]:
    if isinstance(one, str) and one != "leaves" and not re.search(r"[*?\[]", one):
        _checks.known_name(one, known, who)
        return [known[one]]
    if one == "leaves":
        what, found = "leaves with parameters to train", leaves(known)
    elif isinstance(one, str):
        what, pattern = f"modules named {one!r}", _pattern(one)
        found = [module for name, module in known.items() if name and pattern.fullmatch(name)]
    else:
        what = f"modules of type {one.__name__}"
        found = [module for module in known.values() if isinstance(module, one)]
    found = [module for module in found if runs(module)]
    _checks.found_some(bool(found), what, known, who)
    return found


def _pattern(glob: str) -> re.Pattern[str]:
    """As for paths: ``*`` and ``?`` stay within one name, ``**`` crosses dots."""
    translated = ""
    for part in re.split(r"(\*\*|\*|\?|\[[^\]]+\])", glob):
        special = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
        is_set = part.startswith("[") and part.endswith("]")
        translated += special.get(part) or (part.replace("[!", "[^") if is_set else re.escape(part))
    return re.compile(translated)
