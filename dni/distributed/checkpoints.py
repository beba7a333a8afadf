"""What a stage keeps on disk: whole files, of which the newest counts.

A stage may die at any moment, even while it writes. So a checkpoint is written under another name,
flushed to disk, and only then given its own; when :meth:`.Checkpoints.save` returns, it survives a
crash of the process and of the machine. Files hold tensors, numbers and plain containers, and are
read with ``weights_only``: nothing in them is ever executed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dni import _checks
from dni.distributed.parts import merge

__all__ = ["Checkpoints", "export", "merged"]


class Checkpoints:
    """The checkpoints of one stage, in a folder of their own.

    Args:
        folder: the folder of the run, the same for all stages.
        stage: the number of the stage, from 0.
        keep: how many checkpoints to keep.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = dni.distributed.Checkpoints(folder, stage=0)
        ...     _ = checkpoints.save(100, {"part": {"weight": torch.ones(2)}})
        ...     checkpoints.newest()["part"]["weight"]
        tensor([1., 1.])
    """

    def __init__(self, folder: str | os.PathLike[str], stage: int, keep: int = 3) -> None:
        who = type(self).__name__
        self.folder = Path(folder) / f"stage-{_checks.count('stage', stage, 0, who)}"
        self.keep = _checks.count("keep", keep, 1, who)

    def save(self, clock: int, content: Mapping[str, Any]) -> Path:
        """Write ``content`` at step ``clock``; on disk when this returns."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            _sync_folder(self.folder.parent)
        path = self.folder / f"{clock:012d}.pt"
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        if names := torch.serialization.get_unsafe_globals_in_checkpoint(partial):
            partial.unlink()  # fail now, not when a stage has died
            _checks.cannot_be_kept(names)
        partial.replace(path)
        _sync_folder(self.folder)
        for old in self.paths()[: -self.keep]:
            if old != path:  # which may be older than damaged ones
                old.unlink(missing_ok=True)
        return path

    def paths(self) -> list[Path]:
        """The files that are there, the newest last."""
        return sorted(self.folder.glob("[0-9]*.pt"))

    def newest(self) -> dict[str, Any] | None:
        """The content of the newest readable checkpoint, on the CPU; ``None`` if there is none."""
        for path in reversed(self.paths()):
            try:
                return _load(path)
            except Exception as error:  # whatever a flipped bit brings about
                _checks.damaged(path, error)
        return None


def merged(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``state_dict`` of the whole, plain model, from the newest checkpoint of each stage.

    Example:
        >>> import tempfile
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> parts = dni.distributed.split(model, at=["0"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number, part in enumerate(parts):
        ...         checkpoints = dni.distributed.Checkpoints(folder, number)
        ...         _ = checkpoints.save(10, {"part": part.state_dict()})
        ...     model.load_state_dict(dni.distributed.merged(folder))
        <All keys matched successfully>
    """
    who = "dni.distributed.merged"
    newest = [Checkpoints(folder, stage).newest() for stage in _checks.stages_in(Path(folder), who)]
    _checks.one_model([(content or {}).get("model") for content in newest], Path(folder), who)
    return merge(_checks.a_part(content, stage, who) for stage, content in enumerate(newest))


def export(folder: str | os.PathLike[str], into: str | os.PathLike[str]) -> None:
    """Write what :func:`merged` gives as a checkpoint of ``torch.distributed.checkpoint``.

    Any number of processes can load it, each the shards that it needs:
    ``torch.distributed.checkpoint.load(state, checkpoint_id=into)``.
    """
    from torch.distributed.checkpoint import save  # type: ignore[attr-defined]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is ")  # disabled, as intended
        save(merged(folder), checkpoint_id=into, no_dist=True)


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def _sync_folder(folder: Path) -> None:
    """Flush the folder: a file's name has to survive a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
