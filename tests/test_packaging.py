"""What is installed is the library: built from a source archive, it runs its own examples."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.clones import ROOT, clone


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what ``pip install`` brings: clone, source archive, wheel, installation."""
    folder = tmp_path_factory.mktemp("packaging")
    build = "import setuptools.build_meta as b; print(b.build_sdist('../dist'))"
    archive = run("-c", build, cwd=clone(folder / "clone")).split()[-1]
    with tarfile.open(folder / "dist" / archive) as opened:
        opened.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    run("-c", "import setuptools.build_meta as b; b.build_wheel('../../dist')", cwd=source)
    (wheel,) = (folder / "dist").glob("*.whl")
    target = folder / "installed"
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(target)]
    run("-m", "pip", "install", *options, str(wheel), cwd=folder)
    return target


def test_the_results_are_in_the_source_archive(installed: Path) -> None:
    (results,) = (installed.parent / "source").glob("*/benchmarks/evidence/results")
    kept = ROOT / "benchmarks" / "evidence" / "results"
    assert {path.name for path in kept.glob("*.json")} <= {path.name for path in results.iterdir()}


def test_the_whole_package_and_nothing_else_is_there(installed: Path) -> None:
    found = {path.relative_to(installed) for path in (installed / "dni").rglob("*.py")}
    assert found == {path.relative_to(ROOT) for path in (ROOT / "dni").rglob("*.py")}
    assert (installed / "dni" / "py.typed").is_file()
    assert [path.name for path in installed.iterdir() if "." not in path.name] == ["dni"]


def test_its_examples_run_from_there(installed: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "conftest.py", installed / "conftest.py")
    said = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", "dni",
        cwd=installed, PYTHONPATH=str(installed),
    )  # fmt: skip
    assert " passed" in said
    where = run("-c", "import dni; print(dni.__file__)", cwd=tmp_path, PYTHONPATH=str(installed))
    assert where.strip() == str(installed / "dni" / "__init__.py")
