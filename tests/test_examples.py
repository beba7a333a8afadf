"""The examples run as their readers would run them, for a few steps."""

from __future__ import annotations

import copy
import importlib
import json
import sys

import pytest
import torch

import dni

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


@pytest.mark.parametrize("learn", ["backprop", "dni", "cdni", "local"])
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


def test_the_evidence_runs_goes_on_and_prints_a_table(monkeypatch, tmp_path, capsys):
    evidence = importlib.import_module("benchmarks.evidence.__main__")
    flags = ["--smoke", "--networks", "fc3", "cnn3", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["evidence", *flags, "--arms", "cDNI", "local loss"])
    evidence.main()
    first = capsys.readouterr().out
    assert first.splitlines()[1].split()[-2:] == ["fc3", "cnn3"]
    assert "not run" not in first
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 4
    outcome = json.loads(next(iter(files)).read_text())
    assert outcome["curve"][-1] == [6, outcome["score"]]
    evidence.main()  # nothing is missing
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert capsys.readouterr().out == first
    next(tmp_path.glob("*fc3-cDNI*")).unlink()
    flags += ["--arms", "cDNI", "DNI", "--table", "--picture", str(tmp_path / "curves.png")]
    monkeypatch.setattr(sys, "argv", ["evidence", *flags])
    evidence.main()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[3:-2]] == ["cDNI"]  # nobody has run the other
    assert "not run" in printed[3]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_outcome_is_never_taken_for_another(monkeypatch, tmp_path):
    evidence = importlib.import_module("benchmarks.evidence.__main__")
    flags = ["evidence", "--networks", "fc3", "--arms", "backprop", "--seeds", "1", "--steps", "2"]
    flags += ["--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*flags, "--batch", "32"])
    evidence.main()
    monkeypatch.setattr(sys, "argv", [*flags, "--batch", "64"])
    with pytest.raises(SystemExit, match=r"digits-fc3-backprop-2-0.json is of another run or arm"):
        evidence.main()
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:50])
    with pytest.raises(SystemExit, match=r"backprop-2-0.json is not whole .*remove it"):
        evidence.main()


def test_a_run_that_fails_ends_the_others_and_keeps_what_is_done(tmp_path):
    module = importlib.import_module("benchmarks.evidence.run")
    good = [module.Run("fc3", "backprop", seed, 2, 32, "digits") for seed in range(30)]
    bad = module.Run("no such network", "backprop", 0, 2, 32, "digits")
    with pytest.raises(KeyError, match="no such network"):
        module.run_all([good[0], bad, *good[1:]], None, tmp_path, 1)
    files = list(tmp_path.iterdir())
    assert good[0].file(tmp_path) in files
    assert len(files) < len(good)


def test_every_arm_decouples_every_network():
    arms = importlib.import_module("benchmarks.evidence.arms")
    networks = importlib.import_module("benchmarks.evidence.networks")
    for plan in networks.NETWORKS.values():
        flat = isinstance(plan.build((1, 8, 8))[0], torch.nn.Flatten)
        for arm in (arms.ALL if flat else arms.ARMS).values():
            network = plan.build((1, 8, 8))
            arm.decouple(network, plan.at, torch.randn(2, 1, 8, 8))
            cuts = dni.interfaces_of(network)
            parts = sum(isinstance(part, torch.nn.Sequential) for part in network)
            assert len(cuts) == (0 if arm.learn == "backprop" else parts)


def test_an_applied_average_learns_what_the_synthesizer_learns():
    pieces = importlib.import_module("benchmarks.evidence.pieces")
    torch.manual_seed(0)
    plain = dni.BackwardInterface(dni.BasicSynthesizer(3, n_hidden=1), normalize=False)
    averaged = dni.BackwardInterface(
        pieces.Averaged(copy.deepcopy(plain.synthesizer), 0.9), normalize=False
    )
    learning = averaged.synthesizer.synthesizer
    for _ in range(3):
        trigger, message = torch.randn(2, 5, 3)
        for interface, learner in ((plain, plain.synthesizer), (averaged, learning)):
            interface.zero_grad()
            interface.send(message, trigger)
            with torch.no_grad():
                for parameter in learner.parameters():
                    parameter -= 0.1 * parameter.grad
        for one, other in zip(plain.synthesizer.parameters(), learning.parameters(), strict=True):
            torch.testing.assert_close(one, other)
    assert not torch.equal(averaged.receive(trigger), plain.receive(trigger))  # the mean lags


def test_a_scale_for_each_feature_regresses_each_in_its_units():
    pieces = importlib.import_module("benchmarks.evidence.pieces")
    plain = dni.BasicSynthesizer(3, n_hidden=1)
    made = pieces.PerFeature(copy.deepcopy(plain), 3, rate=1.0)
    scale, trigger = torch.tensor([1.0, 10.0, 100.0]), torch.randn(5, 3)
    message = torch.randn(5, 3)
    message /= message.square().mean(0).sqrt()
    for synthesizer, real in ((plain, message), (made, message * scale)):
        interface = dni.UnidirectionalInterface(synthesizer, normalize=False)
        for _ in range(2):  # the first shows the scale
            interface.zero_grad()
            interface.send(real, trigger)
    for one, other in zip(plain.parameters(), made.synthesizer.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_limit_of_prediction_is_measured(monkeypatch, tmp_path, capsys):
    limit = importlib.import_module("benchmarks.evidence.limit")
    path = tmp_path / "limit.json"
    monkeypatch.setattr(limit, "EPOCHS", 1)
    monkeypatch.setattr(sys, "argv", ["limit", "--at", "3", "--json", str(path)])
    limit.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["cut"] for row in rows] == [1, 2, 3]
    assert rows[2]["labels"] > rows[2]["alone"] >= 0


def test_raw_and_normalised_regression_are_compared_over_rates(monkeypatch, tmp_path, capsys):
    scale = importlib.import_module("benchmarks.evidence.scale")
    path = tmp_path / "scale.json"
    monkeypatch.setattr(scale, "RATES", (3e-3, 3e-8))
    monkeypatch.setattr(
        sys, "argv", ["scale", "--steps", "30", "--seeds", "1", "--json", str(path)]
    )
    scale.main()
    lines = json.loads(path.read_text())["lines"]
    assert [line["regression"] for line in lines] == ["normalised"] * 2 + ["raw"] * 2
    assert lines[3]["cosines"][2] > lines[2]["cosines"][2]  # raw: the slow one says more


def test_what_is_known_of_a_gradient_is_explained():
    limit = importlib.import_module("benchmarks.evidence.limit")
    h, y = torch.randn(6000, 4), torch.arange(6000) % 10
    of_h = torch.tanh(h @ torch.randn(4, 4))
    table = torch.randn(10, 4)
    of_y = (table - table.mean(0))[y]
    assert limit.explained(h, of_h, y, labels=False) > 0.9
    assert limit.explained(h, of_y, y, labels=True) > 0.95
    assert limit.explained(h, of_y, y, labels=False) < 0.05
