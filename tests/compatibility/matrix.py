"""The matrix as the page shows it: what works, what is refused, what cannot be seen."""

from __future__ import annotations

from tests.compatibility import processes, rows
from tests.compatibility.subjects import SUBJECTS

ROWS = [*rows.ROWS, *processes.ROWS]
EARLY = [subject.name for subject in SUBJECTS if subject.early]

REFUSED: dict[tuple[str, str], str] = {
    **{
        (f"torch.compile, {backend}", name): "pass unlock=False"
        for backend in ("aot_eager", "inductor")
        for name in EARLY
    },
    **{("checkpoint", name): "expected no second run of it" for name in EARLY},
    **{
        (row, name): "which a transform of torch.func cannot"
        for row in ("torch.func.grad", "torch.func.vmap over grad")
        for name in (*EARLY, "windows")
    },
    **{
        (row, "DNI"): "expected the parameters that it was built with"
        for row in ("torch.func.grad", "torch.func.vmap over grad", "FSDP2", "meta device")
    },
    **{("DDP", name): "DistributedDataParallel listens" for name in EARLY},
    ("DDP", "DNI"): "before DistributedDataParallel averages gradients",
}
"""Cells that raise an error of this library, and a part of what it says."""

UNSEEN: dict[tuple[str, str], str] = {
    (row, "DNI"): "``DNI`` steps while a backward pass runs, so a factor, a sum or a norm that is "
    "known only after the pass comes too late. Use ``decouple``."
    for row in ("GradScaler, 2**8", "GradScaler, 2**16", "gradient accumulation",
                "gradient clipping")
}  # fmt: skip
"""Cells that cannot work, and that nobody can notice: why."""

REMEDIES = {
    "pass unlock=False": "Use the form in one graph, ``unlock=False``.",
    "expected no second run of it": "Use ``unlock=False``, or the reentrant kind.",
    "which a transform of torch.func cannot": "Use ``unlock=False, normalize=False``.",
    "DistributedDataParallel listens": "Use ``unlock=False``.",
    "before DistributedDataParallel averages gradients": "Use ``decouple``.",
    "expected the parameters that it was built with": "Wrap after ``to_empty``, or ``decouple``.",
}

HEAD = """\
Compatibility
=============

These tables show which features of PyTorch work with every public module. Each cell is a test: it
trains a network with and without the feature, and both have to come out the same (✓). Where the
feature cannot work, the test requires the library's own error (✗). ``python -m
tests.compatibility`` writes this page.

Columns that say *unlock* are the early form (``unlock=True``, the default of an interface), which
sends its gradients during the forward pass. The other columns are the form in one graph
(``unlock=False``, which ``decouple`` uses). Under ``windows``, it is the recurrent core that is
compiled, checkpointed or wrapped.

For most features only the order matters: decouple first, with a sample, and then apply the feature:

.. code-block:: python

    import dni
    import torch

    model = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    x, y = torch.randn(32, 64), torch.randint(10, (32,))
    dni.decouple(model, at="1", sample=x, context_classes=10)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    with torch.autocast("cpu", dtype=torch.bfloat16), dni.synthesizer_context(y):
        loss = torch.nn.functional.cross_entropy(compiled(x), y)
    loss.backward()

"""

NOTES = """
How it was done
---------------

* *torch.compile*: with ``fullgraph=True`` and the loss in one region, over twenty steps in which
  ``mix`` and the labels change; at most two graphs.
* *GradScaler*: the synthesizers have an optimiser that is stepped without the scaler
  (``dni.synthesizer_parameters``), and ``nonfinite="skip"``; the fourth step overflows.
* *DDP, FSDP2*: two processes with gloo; every rank has the mean of all gradients. ``Forward``
  leaves the part before it without a gradient, so DDP is given ``find_unused_parameters=True``. For
  ``windows``, the core, the readout and the synthesizer are wrapped one by one.
* *torch.func.grad*, and *vmap* over it: with ``normalize=False``.
* *torch.export*: exports the network that ``dni.strip`` leaves, in evaluation mode.
"""


def said(row: str, subject: str) -> str:
    """A cell."""
    if (row, subject) in REFUSED:
        number = 1 + list(REMEDIES).index(REFUSED[row, subject])
        return f"✗ [{number}]_"
    return f"no [{len(REMEDIES) + 1}]_" if (row, subject) in UNSEEN else "✓"


def page() -> str:
    """``docs/compatibility.rst``."""
    names = [subject.name for subject in SUBJECTS]
    text = [*_table("Interfaces", names[:-3]), *_table("Helpers and networks", names[-3:])]
    notes = [f".. [{number}] {words}" for number, words in enumerate(REMEDIES.values(), 1)]
    notes.append(f".. [{len(notes) + 1}] {next(iter(UNSEEN.values()))}")
    return HEAD + "\n".join([*text, *notes, ""]) + NOTES


def _table(title: str, names: list[str]) -> list[str]:
    lines = [["..", *names], *([row, *(said(row, name) for name in names)] for row in ROWS)]
    text = [f".. list-table:: {title}", "   :header-rows: 1", "   :stub-columns: 1"]
    text += ["   :class: matrix", ""]
    for cells in lines:
        text += [f"   {'*' if not index else ' '} - {cell}" for index, cell in enumerate(cells)]
    return [*text, ""]
