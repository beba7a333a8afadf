r"""What would go wrong at a cut: all problems at once, before training.

In training each problem shows up late, and one at a time: as an autograd error in the middle
of somebody else's module, or as a part of the network that learns nothing. A dry run of the
*plain* network shows them all. Two of them are found in its graph, with :math:`U` the nodes
that make a cut's output (*below*), :math:`G` all nodes, and :math:`C(p)` the nodes that use a
parameter :math:`p`:

* :math:`p` is tied across the cut if :math:`C(p)` meets both :math:`U` and
  :math:`G \setminus U`: it would learn from a synthetic and from a real gradient;
* an output is unused if no gradient reaches it: its synthesizer would learn nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import Node

from dni import _trees
from dni._checks.words import shape, structure
from dni.decoupling.select import At, select
from dni.decoupling.shapes import call, heads


class Problem(NamedTuple):
    """One problem at one cut; as text, all three fields."""

    cut: str
    """The module that the interface would stand after."""
    what: str
    """What is wrong there."""
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.cut}: {self.what}. {self.remedy}."


def validate(model: nn.Module, sample: Any, at: At) -> list[Problem]:
    r"""All problems that ``dni.decouple(model, at)`` would meet; an empty list if there are none.

    The model may be plain or already decoupled; it stays as it is.

    Args:
        model: see :func:`decouple`.
        sample: what ``model`` is called with: a tensor, a tuple of arguments or a dict of
            keywords.
        at: the modules to cut after; see :func:`decouple`.

    Raises:
        ValueError: if ``at`` matches nothing, or the model refuses the sample.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(inplace=True), torch.nn.Linear(8, 2)
        ... )
        >>> for problem in dni.validate(model, torch.randn(3, 4), at=["0", "2"]):
        ...     print(problem.cut, problem.what, sep=": ")
        0: its output is changed in place after the cut
        2: its output is the model's own
        >>> print(problem.remedy)
        Leave it out: what the loss sends there is known at once, and needs no prediction
        >>> dni.validate(model, torch.randn(3, 4), at="1")
        []
    """
    who = "dni.validate"
    places = select(model, at, who)
    cuts = {module: _Cut(name) for name, module in places.modules.items()}
    ran: dict[str, Any] = {}

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        ran.pop(cuts[module].name, None)
        ran[cuts[module].name] = output
        cuts[module].keep(output)

    handles = [module.register_forward_hook(keep) for module in cuts]
    try:
        result = call(model, sample, who)
    finally:
        for handle in handles:
            handle.remove()
    spared = heads(places, ran, result)  # decouple leaves these alone, and what is never called
    met = places.named | (set(ran) - set(spared))
    if not met:
        return [Problem(name, *_left_out(name in spared)) for name in places.modules]
    graph = _Graph(result, {parameter: name for name, parameter in model.named_parameters()})
    return [
        Problem(cut.name, what, remedy)
        for cut in cuts.values()
        if cut.name in met
        for what, remedy in cut.problems(graph)
    ]


def _left_out(head: bool) -> tuple[str, str]:
    """Why nothing is left to cut, and the remedy."""
    if head:
        return "it is the head, and the only leaf that runs", "Cut by name what stands before it"
    return (
        "it is never called",
        "Cut after a module that is; functional code reads a module's parameters without "
        "calling it",
    )


class _Graph:
    """All nodes that lead to a result, and which of them use which parameter."""

    def __init__(self, result: Any, names: dict[Tensor, str]) -> None:
        self.results = [tensor for _, tensor in _trees.tensors(result)]
        self.nodes = below({tensor.grad_fn for tensor in self.results})
        self.users: dict[str, set[Node]] = {}
        for node in self.nodes:
            for child, _ in node.next_functions:
                name = names.get(getattr(child, "variable", None))  # type: ignore[arg-type]
                if name is not None:
                    self.users.setdefault(name, set()).add(node)


def below(starts: Iterable[Node | None]) -> set[Node]:
    """``starts``, and all nodes that lead to them."""
    found: set[Node] = set()
    open_ends = [node for node in starts if node is not None]
    while open_ends:
        node = open_ends.pop()
        if node not in found:
            found.add(node)
            open_ends += [child for child, _ in node.next_functions if child is not None]
    return found


class _Cut:
    """The outputs of a module during the dry run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outputs: list[Any] = []
        self.tensors: list[tuple[Tensor, Node | None, int]] = []  # as they were at that time

    def keep(self, output: Any) -> None:
        """Keep the output of one call."""
        self.outputs.append(output)
        for _, tensor in _trees.tensors(output):
            if tensor.is_floating_point():
                self.tensors.append((tensor, tensor.grad_fn, tensor._version))

    def problems(self, graph: _Graph) -> Iterator[tuple[str, str]]:
        """What is wrong, and the remedy."""
        nodes = {node for _, node, _ in self.tensors if node is not None}
        if not self.outputs:
            yield _left_out(False)
        elif not self.tensors:
            yield (
                f"unsupported output, {structure(self.outputs[0])}",
                "Cut after a module that puts out floating-point tensors",
            )
        elif not nodes:
            yield (
                "no gradient flows back into it: all below is frozen, detached or an input",
                "Leave it out, or let something below it learn",
            )
        elif not nodes & graph.nodes:
            yield (
                "its output is unused: no gradient would come back for it",
                "Leave it out, or cut after what the network goes on with",
            )
        else:
            yield from self._in_use(nodes, graph)

    def _in_use(self, nodes: set[Node], graph: _Graph) -> Iterator[tuple[str, str]]:
        shapes = {shape(tensor) for tensor, *_ in self.tensors if tensor.dim() > 4}
        if shapes:
            yield (
                f"no ready-made synthesizer for an output of {', '.join(sorted(shapes))}",
                "Pass dni.decouple a synthesizer of your own for it",
            )
        if any(tensor._version != version for tensor, _, version in self.tensors):
            yield (
                "its output is changed in place after the cut",
                "Use the out-of-place operation (nn.ReLU() for nn.ReLU(inplace=True)), or cut "
                "after that operation",
            )
        if any(tensor is result for tensor, *_ in self.tensors for result in graph.results):
            yield (
                "its output is the model's own",
                "Leave it out: what the loss sends there is known at once, and needs no prediction",
            )
        if len(self.outputs) > 1:
            yield (
                f"it is called {len(self.outputs)} times in a forward pass, and one synthesizer "
                "would predict at all those places",
                "Give each place a module of its own, or cut where the network passes once",
            )
            return
        inside = below(nodes)
        for name, users in graph.users.items():
            if users & inside and users - inside:
                yield (
                    f"{name} is used below and above the cut (tied weights): it would learn from "
                    "a synthetic and a real gradient",
                    "Untie it, or cut where all its uses are on one side",
                )
