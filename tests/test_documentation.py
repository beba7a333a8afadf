"""The code blocks of the README and the docs run, in the order in which they are read."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import runpy
import shlex
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from tests.cases import compiles

pytestmark = compiles  # some blocks show torch.compile

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *sorted((ROOT / "docs").rglob("*.rst"))]
BLOCK = re.compile(
    r"^(?P<by> *)\.\. code-block:: python\n *\n(?P<code>(?:(?P=by) {3,}\S.*\n|\s*\n)+)",
    re.MULTILINE,
)
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text())]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_code_blocks_run(page):
    torch.manual_seed(0)
    names = {}
    for block in BLOCK.finditer(page.read_text()):
        exec(compile(textwrap.dedent(block["code"]), page.name, "exec"), names)
    assert any(parameter.grad is not None for parameter in names["model"].parameters())


def test_every_block_of_a_page_is_found():
    for page in PAGES:
        text = page.read_text()
        assert len(BLOCK.findall(text)) == text.count("code-block:: python"), page


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_points_to_is_there(page):
    text = page.read_text()
    for path in re.findall(r"\.\. (?:image|figure):: (\S+)", text):
        assert (page.parent / path).is_file(), path


COMMAND = re.compile(r"python -m (images|(?:examples|benchmarks|tests|dni)(?:\.\w+)+)([^`#]*)")
FLAG = re.compile(r"(?<=\s)--[a-z][a-z-]*")


@functools.cache
def help_of(module):
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [module, "--help"])
        with pytest.raises(SystemExit):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    return said.getvalue()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_are_there_and_know_their_flags(page):
    text = page.read_text()
    blocks = [line for line in text.splitlines() if line.startswith("    ")]
    for command in [*blocks, *re.findall("``(python -m [^`]*)``", " ".join(text.split()))]:
        for module, rest in COMMAND.findall(" ".join(command.split())):
            if module == "tests.compatibility":
                continue  # it has no flags, and writes a page
            unknown = set(FLAG.findall(" " + rest)) - set(FLAG.findall(help_of(module)))
            assert not unknown, (module, unknown)
            if re.match(r"\s+[^\s-]", rest):  # a file or a name, which the module has to take
                assert "positional arguments" in help_of(module), (module, rest)


TABLE = re.compile(r"``python -m benchmarks\.evidence ([^`]*--table[^`]*)``")


PRINTED = [
    "README.rst",
    "docs/results.rst",
    "benchmarks/README.rst",
    "examples/copy_task/README.rst",
    "examples/penn_treebank/README.rst",
    "examples/row_mnist/README.rst",
]


@pytest.mark.parametrize("name", PRINTED)
def test_a_table_is_what_its_command_prints(name, monkeypatch, capsys):
    text = (ROOT / name).read_text()
    commands = [shlex.split(found) for found in TABLE.findall(" ".join(text.split()))]
    printing = [command for command in commands if "--picture" not in command]
    assert printing
    evidence = importlib.import_module("benchmarks.evidence.__main__")
    for command in printing:
        monkeypatch.setattr(sys, "argv", ["evidence", *command])
        evidence.main()
        for table in capsys.readouterr().out.strip().split("\n\n"):
            assert table in text, command
