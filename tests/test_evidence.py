"""The harness: what an arm says is what is done, and what is found is what was asked for."""

from __future__ import annotations

import copy
import importlib
import json
import sys

import pytest
import torch
import torch.nn.functional as F

import dni
from benchmarks.evidence import images
from benchmarks.evidence.arms import ALL, ARMS, Arm
from benchmarks.evidence.networks import NETWORKS
from benchmarks.evidence.run import Run
from examples.data import Images


@pytest.fixture(autouse=True)
def _embedded_data(monkeypatch):
    monkeypatch.delenv("DNI_DATA", raising=False)


# -- what an arm does ----------------------------------------------------------------

X, Y = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(9)), torch.arange(64) % 10


def trained(arm, steps, seed=0):
    """A network of three layers, and its parameters before and after."""
    plan = NETWORKS["fc3"]
    torch.manual_seed(seed)
    network = plan.build(X.shape[1:])
    arm.decouple(network, plan.at, X[:8])
    before = {name: one.detach().clone() for name, one in network.named_parameters()}
    run = Run("fc3", arm.name, seed, steps, 16, "made")
    images.train(network, arm, Images("made", X, Y, X, Y), run)
    return network, before, {name: one.detach() for name, one in network.named_parameters()}


def plainly_trained(steps, seed=0, lr=1e-3):
    torch.manual_seed(seed)
    network = NETWORKS["fc3"].build(X.shape[1:])
    optimizer = torch.optim.Adam(network.parameters(), lr, fused=True)
    batches = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        index = torch.randint(64, (16,), generator=batches)
        optimizer.zero_grad()
        F.cross_entropy(network(X[index]), Y[index]).backward()
        optimizer.step()
    return dict(network.named_parameters())


def names(arms):
    return {"argvalues": arms, "ids": [arm.name for arm in arms]}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("arm", **names([ARMS["backprop"], Arm("observing", observe=3)]))
def test_an_arm_that_backpropagates_is_the_plain_loop(arm, seed):
    """Bit for bit, with synthesizers beside it too."""
    _, _, after = trained(arm, 3, seed)
    for name, expected in plainly_trained(3, seed).items():
        assert torch.equal(after[name], expected), name


def test_an_arm_that_has_observed_is_decoupled():
    _, _, after = trained(Arm("observing", observe=2), 4)
    assert not torch.equal(after["1.0.weight"], plainly_trained(4)["1.0.weight"])


def test_without_backpropagation_the_last_layer_alone_learns():
    _, before, after = trained(ARMS["no backprop"], 3)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"4.weight", "4.bias"}


synthetic = [arm for arm in ALL.values() if arm.learn == "synthetic" and arm.kind != "close"]


@pytest.mark.parametrize("arm", **names(synthetic))
def test_all_arms_start_from_the_same_network(arm):
    _, plain, _ = trained(ARMS["backprop"], 1)
    _, before, _ = trained(arm, 1)
    for name, one in plain.items():
        assert torch.equal(before[name], one), name


def test_a_network_and_its_synthesizers_have_their_rates():
    """Adam's first step is as long as its rate."""
    arm = Arm("rates", labels=True, lr=1e-2, synthesizer_lr=1e-4)
    network, before, after = trained(arm, 1)
    own = set(dni.synthesizer_parameters(network))
    for longest, synthesizers in ((1e-2, False), (1e-4, True)):
        moved = [
            float((after[name] - before[name]).abs().max())
            for name, one in network.named_parameters()
            if (one in own) == synthesizers
        ]
        assert max(moved) == pytest.approx(longest, rel=1e-2)


def test_a_rate_that_goes_down_ends_at_zero():
    _, _, two = trained(Arm("decay", "backprop", decay=True), 2)
    _, _, one = trained(Arm("half", "backprop", lr=5e-4), 1)
    for name, value in one.items():
        assert torch.equal(two[name], value), name


@pytest.mark.parametrize(("own", "steps"), [(False, 2), (True, 2 * (1 + 3))])
def test_a_replay_joins_a_step_or_has_steps_of_its_own(own, steps, monkeypatch):
    asked, stepped = [], []
    losses, step = dni.Replay.losses, torch.optim.Adam.step

    def counted_losses(replay, count):
        asked.append(count)
        return losses(replay, count)

    def counted_step(optimizer, *arguments):
        stepped.append(1)
        return step(optimizer, *arguments)

    monkeypatch.setattr(dni.Replay, "losses", counted_losses)
    monkeypatch.setattr(torch.optim.Adam, "step", counted_step)
    trained(Arm("replay", replay=3, own_steps=own), 2)
    assert asked == [3, 3]
    assert len(stepped) == steps


def test_trust_is_the_cosine_of_late():
    network, _, _ = trained(Arm("trust", labels=True, trust=True), 50)
    factors = [cut.factor for cut in dni.interfaces_of(network).values()]
    assert all(0 <= factor < 1 for factor in factors)
    assert len(set(factors)) == 3


def test_many_features_count_in_full_where_they_are_not_held():
    made = ALL["cDNI unheld"].builder()(torch.randn(2, 32, 28, 28)).synthesizer
    assert (made.shared, made.moved) == (float("inf"), float("inf"))
    assert made.gain == 1


def test_the_cosines_are_those_of_the_last_sixth(monkeypatch):
    counts, read = [], images.Monitor.read

    def counted(monitor):
        measured = read(monitor)
        counts.append({one.messages for one in measured.values()})
        return measured

    monkeypatch.setattr(images.Monitor, "read", counted)
    trained(ARMS["mix 0.5"], 20)
    assert counts[:6] == [{4}, {3}, {3}] * 2


# -- what is run, found and printed --------------------------------------------------


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


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"curve": [[1, 2.0]]}'])
def test_what_is_no_outcome_is_not_taken_for_one(content, tmp_path):
    run = Run("fc3", "backprop", 0, 2, 32, "digits")
    run.file(tmp_path).write_text(content)
    with pytest.raises(SystemExit, match="is not whole .*remove it"):
        run.found(tmp_path)


def test_what_somebody_else_has_written_meanwhile_is_not_run_again(tmp_path, monkeypatch):
    module = importlib.import_module("benchmarks.evidence.run")
    run = module.Run("fc3", "backprop", 0, 2, 32, "digits")
    module.write_outcome(run, None, tmp_path)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(module, "outcome", lambda run, source: pytest.fail("run again"))
    module.write_outcome(run, None, tmp_path)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--smoke", "--steps", "9"], "--smoke says how many steps, rows and seeds"),
        (["--batch", "1"], "expected batches of at least 2 for batch norm, got 1"),
    ],
)
def test_flags_that_contradict_are_refused(flags, said, monkeypatch, capsys):
    evidence = importlib.import_module("benchmarks.evidence.__main__")
    monkeypatch.setattr(sys, "argv", ["evidence", *flags])
    with pytest.raises(SystemExit):
        evidence.main()
    assert said in capsys.readouterr().err


def test_every_trial_trains_its_network():
    evidence = importlib.import_module("benchmarks.evidence.__main__")
    data = Images("made", X, Y, X, Y)
    for (network,), arms, _ in evidence.TRIED:
        plan = NETWORKS[network]
        for arm in (ALL[name] for name in arms):
            made = plan.build(X.shape[1:])
            arm.decouple(made, plan.at, X[:8])
            curve, _ = images.train(made, arm, data, Run(network, arm.name, 0, 2, 16, "made"))
            assert [step for step, _ in curve] == [1, 2], arm.name
            assert all(one.isfinite().all() for one in made.parameters()), arm.name


def test_an_outcome_outlives_fields_of_an_arm_that_said_nothing(tmp_path):
    run = Run("fc3", "backprop", 0, 2, 32, "digits")
    content = {"run": run._asdict(), "arm": vars(ARMS["backprop"]), "score": 1.0, "curve": [[2, 1]]}
    run.file(tmp_path).write_text(json.dumps(content | {"arm": content["arm"] | {"old": False}}))
    assert run.found(tmp_path)["score"] == 1.0
    run.file(tmp_path).write_text(json.dumps(content | {"arm": content["arm"] | {"old": 3}}))
    with pytest.raises(SystemExit, match="is of another run or arm"):
        run.found(tmp_path)


def test_each_network_has_a_size_of_its_own():
    module = importlib.import_module("benchmarks.evidence.run")
    sizes = {
        name: {(run.steps, run.batch) for run in module.grid([name], None, 1, None, None, None)}
        for name in ("fc3", "cnn3", "cifar", "rows7", "copy3", "penn5", "penn8")
    }
    assert sizes == {
        "fc3": {(3000, 256)}, "cnn3": {(600, 256)}, "cifar": {(1000, 64)}, "rows7": {(1200, 100)},
        "copy3": {(10_000, 32)}, "penn5": {(30_000, 32)}, "penn8": {(18_750, 32)},
    }  # fmt: skip
    (run,) = module.grid(["cnn3"], ["cDNI"], 1, 1000, 64, None)
    assert (run.steps, run.batch) == (1000, 64)


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
    for plan in NETWORKS.values():
        flat = isinstance(plan.build((1, 8, 8))[0], torch.nn.Flatten)
        for arm in (ALL if flat else ARMS).values():
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
    lines = json.loads(path.read_text())["rows"]
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
