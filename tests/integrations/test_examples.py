"""The examples of this folder's libraries run to their end."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("with_lightning", "dni/network."),
        ("with_transformers", "loss of the stripped model"),
        ("with_accelerate", "test error"),
    ],
)
def test_an_example_runs(
    name: str, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(sys, "argv", [name, "--steps", "4"])
    importlib.import_module(f"examples.{name}").main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert any(last in line for line in lines[-2:]), lines
