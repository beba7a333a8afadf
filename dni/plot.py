"""Pictures: how synthesizers learn, and where a model is cut.

It needs ``matplotlib``; the rest of the library does not, except :meth:`.Monitor.plot`. Every
function returns the figure, and draws into ``ax`` if one is given.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dni import _checks
from dni.diagnostics import Measurement, Monitor
from dni.interfaces import BidirectionalInterface, UnidirectionalInterface
from dni.interfaces.find import ATTRIBUTE, attached_to

__all__ = ["cosines", "curves", "cuts"]

TITLES = {"loss": "synthesizer loss", "cosine": "cosine", "norm_ratio": "norm ratio"}
CUT = "#d1495b"
BOX = "#8fa9bf"
ROWS = 40  # boxes in a drawing, at most; beyond that, deep modules are drawn as one


def curves(monitor: Monitor, quantity: str = "cosine", ax: Any = None) -> Any:
    """Draw one quantity of every cut over the reads of ``monitor``.

    Args:
        monitor: a monitor that has been read.
        quantity: ``"loss"``, ``"cosine"`` or ``"norm_ratio"``.
        ax: where to draw.

    Example:
        >>> cut = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3), unlock=False)
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), cut, torch.nn.Linear(3, 1))
        >>> with dni.diagnostics.Monitor(model) as monitor:
        ...     model(torch.ones(5, 2)).mean().backward()
        >>> from dni import plot
        >>> plot.curves(monitor, "loss").axes[0].get_title()
        'synthesizer loss'
    """
    _checks.one_of("quantity", quantity, tuple(TITLES), "dni.plot.curves")
    figure, axes = _place(ax, (5, 3))
    index = Measurement._fields.index(quantity)
    history = monitor.history()
    for name, seen in history.items():
        reads = [read for read, measured in enumerate(seen, 1) if measured.messages]
        axes.plot(reads, [seen[read - 1][index] for read in reads], label=name, marker=".")
    axes.set(title=TITLES[quantity], xlabel="read")
    if 0 < len(history) <= 12:
        axes.legend(fontsize="small")
    return figure


def cosines(monitor: Monitor, ax: Any = None) -> Any:
    """Draw the cosine of every cut over time, as colours: a row per cut, a column per read.

    Args:
        monitor: a monitor that has been read.
        ax: where to draw.
    """
    history = monitor.history()
    figure, axes = _place(ax, (6, 1.2 + 0.3 * len(history)))
    rows = [
        [measured.cosine if measured.messages else float("nan") for measured in seen]
        for seen in history.values()
    ]
    width = max(map(len, rows), default=0)
    _checks.has_reads(width > 0, "dni.plot.cosines")
    image = axes.imshow(
        rows, aspect="auto", vmin=0, vmax=1, interpolation="nearest",
        extent=(0.5, width + 0.5, len(rows) - 0.5, -0.5),
    )  # fmt: skip
    axes.set(title="cosine of synthetic and real message", xlabel="read")
    axes.set_yticks(range(len(rows)), list(history))
    figure.colorbar(image, ax=axes)
    return figure


def cuts(model: nn.Module, ax: Any = None) -> Any:
    """Draw where ``model`` is cut: its modules from first to last, and the cuts between them.

    Args:
        model: a model with interfaces in it, or attached to it.
        ax: where to draw.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)
        ... )
        >>> from dni import plot
        >>> figure = plot.cuts(dni.decouple(model, at="1"))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0  Linear', '1  ReLU', 'cut', '2  Linear']
    """
    rows = _rows(model)
    figure, axes = _place(ax, (4, 0.4 + 0.28 * len(rows)))
    for place, (label, is_cut) in enumerate(rows):
        if is_cut:
            axes.plot((-0.1, 1.1), (place, place), color=CUT, linestyle="--")
            axes.text(1.12, place, "cut", color=CUT, va="center", fontsize="small")
        else:
            axes.barh(place, 1, height=0.8, color=BOX)
            axes.text(0.02, place, label, va="center", fontsize="small", color="black")
    axes.set(xlim=(-0.12, 1.3), ylim=(len(rows) - 0.4, -0.6))
    axes.set_axis_off()
    return figure


def _rows(model: nn.Module) -> list[tuple[str, bool]]:
    """Labels from top to bottom, and whether each is a cut."""
    depth = 1 + max(name.count(".") for name, _ in model.named_modules())
    rows = _boxes(model, "", depth)
    while len(rows) > ROWS and depth > 1:
        depth -= 1
        rows = _boxes(model, "", depth)
    return rows


def _boxes(module: nn.Module, name: str, depth: int) -> list[tuple[str, bool]]:
    if isinstance(module, (UnidirectionalInterface, BidirectionalInterface)):
        return [(name, True)]
    parts = module._modules.items()  # named_children() skips repeated modules
    children = [(n, child) for n, child in parts if child is not None and n != ATTRIBUTE]
    if children and depth:
        rows = [
            row
            for n, child in children
            for row in _boxes(child, f"{name}.{n}" if name else n, depth - 1)
        ]
    else:
        end = _end(module)
        inside = sum(attached_to(m) is not None for m in module.modules()) - (
            attached_to(end) is not None
        )
        more = f"  ({inside} cut{'s' if inside > 1 else ''} inside)" if inside else ""
        rows = [(f"{name}  {type(module).__name__}{more}".strip(), False)]
        module = end
    return rows if attached_to(module) is None else [*rows, (name, True)]


def _end(module: nn.Module) -> nn.Module:
    """The module that holds the cut after ``module``, if its children are not drawn."""
    while attached_to(module) is None and isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    return module


def _place(ax: Any, size: tuple[float, float]) -> tuple[Any, Any]:
    """Axes to draw into, and their figure."""
    if ax is not None:
        return ax.figure, ax
    figure = _checks.plotting().Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()
