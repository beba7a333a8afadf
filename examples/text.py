"""Text for the language models, from the first of these that applies.

* ``--data docs`` (the default): the docstrings of Python's own standard library;
* ``--data DIR``, or the environment variable ``DNI_DATA``: a folder with the Penn Treebank
  files ``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt``, or with a folder ``penn``
  that has them. Without the training file, a *small split* is made of the other two: all of
  ``valid`` and three quarters of ``test`` to train on, the next eighth of ``test`` to
  validate on, and its last eighth to test on.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

MODULES = """
    argparse ast asyncio.base_events asyncio.streams base64 bisect calendar codecs collections
    configparser contextlib copy csv ctypes.util dataclasses datetime decimal difflib dis
    doctest email.message enum fileinput fractions ftplib functools gettext gzip heapq
    html.parser http.client http.cookiejar imaplib inspect io ipaddress json json.decoder
    logging mailbox multiprocessing.pool numbers optparse pathlib pdb pickle pickletools
    platform plistlib pprint profile random reprlib sched shelve shlex shutil smtplib socket
    socketserver sqlite3 ssl statistics string subprocess tarfile tempfile textwrap threading
    timeit tkinter tokenize traceback turtle types typing unittest.case unittest.mock
    urllib.parse urllib.request uuid warnings weakref xml.dom.minidom zipfile
"""
UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
MOST_WORDS = 10_000
SMALL = "penn small split"


@dataclass
class Corpus:
    """A text as numbers: ``tokens[i]`` is what the number ``i`` stands for."""

    name: str
    tokens: list[str]
    train: Tensor
    valid: Tensor
    test: Tensor


def decode(tokens: list[str], numbers: list[int]) -> str:
    """The text that numbers stand for."""
    words = [tokens[number] for number in numbers]
    if max(map(len, tokens)) == 1:
        return "".join(words)
    return " ".join(words).replace(f" {END_OF_LINE} ", "\n")


def load(source: str | None, level: str) -> Corpus:
    """The text that ``--data source`` means, by ``"char"`` or by ``"word"``; see the module.

    A token that is not among the most common ones of the training text becomes a space
    (characters) or ``<unk>`` (words).
    """
    source = _source(source)
    if source == "docs":
        texts = _split("\n".join(_docstrings()), 0.8, 0.9)
    else:
        texts = _penn_texts(Path(source))
    parts = [_characters(text) if level == "char" else _words(text) for text in texts]
    common = Counter(parts[0]).most_common(MOST_WORDS - 1)
    tokens = sorted({token for token, _ in common} | {UNKNOWN if level == "word" else " "})
    index = {token: number for number, token in enumerate(tokens)}
    unknown = index[UNKNOWN if level == "word" else " "]
    numbers = [torch.tensor([index.get(token, unknown) for token in part]) for part in parts]
    return Corpus(name_of(source), tokens, *numbers)


def name_of(source: str | None) -> str:
    """What :func:`load` would find: docs, penn, or its small split."""
    source = _source(source)
    if source == "docs":
        return source
    if source in ("penn", SMALL) and not Path(source).is_dir():
        return source  # a name, for tables of results that are there already
    return "penn" if "train" in _penn(Path(source)) else SMALL


def _source(source: str | None) -> str:
    return source or os.environ.get("DNI_DATA") or "docs"


def _penn(folder: Path) -> dict[str, Path]:
    """The files by their part of the data; ``train`` may be missing."""
    for place in (folder, folder / "penn"):
        files = {part: place / f"ptb.{part}.txt" for part in ("train", "valid", "test")}
        found = {part: path for part, path in files.items() if path.is_file()}
        if {"valid", "test"} <= set(found):
            return found
    raise SystemExit(
        f"{folder} has no ptb.valid.txt and ptb.test.txt: put the Penn Treebank files of the "
        "language-model task (Mikolov's preparation) there, or use --data docs, which needs none."
    )


def _penn_texts(folder: Path) -> tuple[str, str, str]:
    texts = {part: path.read_text() for part, path in _penn(folder).items()}
    if "train" in texts:
        return texts["train"], texts["valid"], texts["test"]
    train, valid, test = _split(texts["test"], 0.75, 0.875)
    return texts["valid"] + train, valid, test


def _split(text: str, first: float, second: float) -> tuple[str, str, str]:
    """Split ``text`` at the ends of the lines next to these fractions."""
    a = text.index("\n", int(first * len(text))) + 1
    b = text.index("\n", int(second * len(text))) + 1
    return text[:a], text[a:b], text[b:]


def _docstrings() -> Iterator[str]:
    """Module by module, in the order of the source; nothing is imported."""
    library = Path(os.__file__).parent
    for name in MODULES.split():
        path = library / f"{name.replace('.', '/')}.py"
        if not path.is_file():  # a package, or a module that this Python does not have
            path = path.with_suffix("") / "__init__.py"
        if not path.is_file():
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                if text:
                    yield text


def _characters(text: str) -> list[str]:
    return list(text.lower())


def _words(text: str) -> list[str]:
    return text.lower().replace("\n", f" {END_OF_LINE} ").split()
