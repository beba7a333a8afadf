"""The examples run as their readers would run them, for a few steps."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

EXAMPLES = ("mnist_mlp", "mnist_cnn", "mnist_full_unlock")
FORMS = ([], ["--dni"], ["--dni", "--no-normalize"], ["--dni", "--context", "--no-unlock"])


def run(monkeypatch, name, *flags):
    monkeypatch.setattr(sys, "argv", [name, *flags])
    importlib.import_module(f"examples.{name}.main").main()


@pytest.fixture(autouse=True)
def _embedded_data(monkeypatch):
    monkeypatch.delenv("DNI_DATA", raising=False)


@pytest.mark.parametrize("flags", FORMS, ids=" ".join)
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_and_reports(monkeypatch, tmp_path, capsys, name, flags):
    path = tmp_path / "outcome.json"
    run(monkeypatch, name, *flags, "--steps", "12", "--batch", "32", "--json", str(path))
    printed = capsys.readouterr()
    assert "digits: test error" in printed.out
    assert printed.err == ""  # no progress bar in a pipe
    written = json.loads(path.read_text())
    assert written["environment"]["torch"]
    ((outcome,),) = written["arms"].values()
    assert 0 <= outcome["test_error"] <= 100
    assert outcome["curve"][-1] == [12, outcome["test_error"]]
    expected = {"mnist_mlp": 3, "mnist_cnn": 2, "mnist_full_unlock": 2}[name]
    assert len(outcome["cuts"]) == (expected if flags else 0)


def test_unfitting_flags_are_refused(monkeypatch, capsys):
    for flags in (["--context"], ["--steps", "0"], ["--batch", "1"]):
        with pytest.raises(SystemExit):
            run(monkeypatch, "mnist_mlp", *flags)
    assert "--context conditions synthesizers: it needs --dni" in capsys.readouterr().err


def test_the_demo_prints_a_table_and_the_path_of_a_picture(monkeypatch, tmp_path, capsys):
    demo = importlib.import_module("examples.demo.main")
    picture = tmp_path / "folder" / "demo.png"
    monkeypatch.setattr(
        sys, "argv", ["demo", "--steps", "40", "--seeds", "2", "--picture", str(picture)]
    )
    demo.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10].strip() for line in lines[1:5]] == ["backprop", "DNI", "DNI replay", "cDNI"]
    assert lines[-1] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_benchmark_of_a_step_runs(monkeypatch, tmp_path, capsys):
    benchmark = importlib.import_module("benchmarks.step_cost")
    path = tmp_path / "cost.json"
    flags = ["--widths", "8", "--cuts", "2", "--turns", "1", "--no-compile", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["step_cost", *flags])
    benchmark.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["arm"] for row in rows] == ["backprop", "by hand", "unlock=True", "unlock=False"]
    losses = {row["arm"]: row["loss"] for row in rows}
    assert losses["unlock=False"] == pytest.approx(losses["by hand"], rel=1e-5)
    assert all(row["ms"] > 0 and row["peak MiB"] > 0 for row in rows)


@pytest.mark.parametrize("learn", ["backprop", "dni", "cdni", "local", "nothing"])
@pytest.mark.parametrize(("network", "unit"), [("resnet", "% test error"), ("transformer", "bits")])
def test_any_network_trains_and_reports(monkeypatch, tmp_path, capsys, network, unit, learn):
    path = tmp_path / "outcome.json"
    flags = ["--network", network, "--learn", learn, "--width", "4", "--steps", "3"]
    run(monkeypatch, "decouple_any", *flags, "--batch", "8", "--json", str(path))
    printed = capsys.readouterr()
    assert unit in printed.out
    assert printed.err == ""
    ((outcome,),) = json.loads(path.read_text())["arms"].values()
    cuts = ["layer1.1", "layer2.1", "layer3.1"] if network == "resnet" else None
    cuts = cuts or ["layers.0", "layers.1", "layers.2"]
    assert list(outcome["cuts"]) == ([] if learn == "backprop" else cuts)
    assert outcome["score"] > 0


@pytest.mark.parametrize(
    "flags", [["fcn"], ["cnn"], ["fcn", "--context", "--share", "0"], ["copy"]], ids=" ".join
)
def test_a_wrapped_network_trains_and_reports(monkeypatch, tmp_path, capsys, flags):
    path = tmp_path / "outcome.json"
    steps = ["--steps", "3", "--batch", "8", "--json", str(path)]
    run(monkeypatch, "wrapped", "--task", *flags, *steps)
    assert capsys.readouterr().err == ""
    ((outcome,),) = json.loads(path.read_text())["arms"].values()
    assert outcome["unit"].startswith("longest" if flags == ["copy"] else "test error in %")


def test_labels_are_refused_where_there_are_none(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "wrapped", "--task", "copy", "--context")
    assert "--task fcn or cnn" in capsys.readouterr().err


def test_the_benchmark_of_attaching_runs(monkeypatch, tmp_path, capsys):
    benchmark = importlib.import_module("benchmarks.decouple")
    path = tmp_path / "decouple.json"
    flags = ["--widths", "8", "--cuts", "2", "--turns", "2", "--many", "5", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["decouple", *flags])
    benchmark.main()
    step, *attaching = json.loads(path.read_text())["rows"]
    assert step["losses"][0] == step["losses"][1]  # the same work, to the last bit
    assert [row["sample"] for row in attaching] == [True, False]
