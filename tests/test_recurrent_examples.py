"""The recurrent examples run as their readers would run them, for a few steps."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples import text
from examples.copy_task.main import END, REPEAT, SILENT, START, Curriculum, targets_to_come
from examples.penn_treebank import main as penn_treebank

ARMS = ([], ["--dni"], ["--dni", "--context", "--hidden", "16"], ["--dni", "--context", "--aux"])


def run(monkeypatch, module, *flags):
    monkeypatch.setattr(sys, "argv", [module, *map(str, flags)])
    importlib.import_module(module).main()


@pytest.fixture(autouse=True)
def _embedded_data(monkeypatch):
    monkeypatch.delenv("DNI_DATA", raising=False)
    monkeypatch.setattr(text, "MODULES", "argparse bisect")


@pytest.mark.parametrize("flags", ARMS, ids=" ".join)
def test_row_mnist(monkeypatch, tmp_path, capsys, flags):
    path = tmp_path / "outcome.json"
    run(
        monkeypatch,
        "examples.row_mnist.main",
        *("--steps", 20, "--batch", 32, "--window", 3, "--json", path, *flags),
    )
    printed = capsys.readouterr()
    assert "digits: test error" in printed.out
    assert printed.err == ""  # no progress bar in a pipe
    ((outcome,),) = json.loads(path.read_text())["arms"].values()
    assert list(outcome["cuts"]) == (["step 3", "step 6"] if flags else [])


@pytest.mark.parametrize("flags", [*ARMS, ["--repeat"]], ids=" ".join)
def test_copy_task(monkeypatch, tmp_path, capsys, flags):
    path = tmp_path / "outcome.json"
    run(
        monkeypatch,
        "examples.copy_task.main",
        *("--steps", 10, "--batch", 4, "--units", 8, "--json", path, *flags),
    )
    assert "solved up to length 0" in capsys.readouterr().out
    assert json.loads(path.read_text())["arms"]


def test_the_copy_tasks_sequences():
    task = Curriculum(repeat=True, symbols=2, repeats=3)
    inputs, targets = task.batch(5, torch.Generator().manual_seed(0))
    assert len(inputs) == len(targets) == task.length == (3 + 1) * 2 + 3
    symbols = inputs[1:3].argmax(-1)
    assert torch.equal(targets[4:10], symbols.repeat(3, 1))
    assert bool((inputs[0, :, START] == 1).all())
    assert bool((inputs[3, :, REPEAT] == 3).all())
    assert bool((inputs[4:] == 0).all())
    assert bool((targets[:4] == SILENT).all())
    assert bool((targets[10] == END).all())
    told = targets_to_come(targets)
    assert torch.equal(told(4)[:, :9].argmax(-1), targets[4])
    assert told(0)[:, :9].sum() == 0
    assert told(11).sum() == 0


@pytest.mark.parametrize("repeat", [True, False])
def test_the_copy_tasks_curriculum(repeat):
    task, seen = Curriculum(repeat), []
    for bits in (0.1, 0.2, 0.1, 0.1, 0.1):
        seen.append((task.symbols, task.repeats, task.solved))
        task.advance(bits)
    if repeat:
        assert seen == [(1, 1, 0), (2, 1, 5), (2, 1, 5), (2, 2, 7), (3, 1, 9)]
    else:
        assert seen == [(1, 1, 0), (2, 1, 5), (2, 1, 5), (3, 1, 7), (4, 1, 9)]


PENN = "examples.penn_treebank.main"
SMALL = ("--batch", 4, "--units", 12, "--embedding", 8, "--every", 10)


@pytest.mark.parametrize(
    "flags",
    [
        *ARMS,
        ["--level", "word", "--dni"],
        ["--model", "GRU", "--dni", "--layers", "2"],
        ["--model", "RNN_TANH", "--dni"],
        ["--model", "RNN_RELU", "--tied", "--units", "8", "--bptt", "3"],
    ],
    ids=" ".join,
)
def test_penn_treebank(monkeypatch, tmp_path, capsys, flags):
    path = tmp_path / "outcome.json"
    run(monkeypatch, PENN, "--steps", 20, "--json", path, *SMALL, *flags)
    assert "bits per" in capsys.readouterr().out
    ((outcome,),) = json.loads(path.read_text())["arms"].values()
    assert [step for step, _ in outcome["curve"]] == [10, 20]
    assert outcome["bits"] > 0


def test_a_language_model_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    straight, stopped = tmp_path / "straight.pt", tmp_path / "stopped.pt"
    flags = ("--steps", 20, *SMALL, "--dni", "--context", "--aux")
    run(monkeypatch, PENN, "--save", straight, *flags)
    arguments = penn_treebank.options().parse_args([str(flag) for flag in flags])
    half = penn_treebank.Run(text.load("docs", "char"), arguments)
    penn_treebank.train(half, 10, 10, stopped)
    run(monkeypatch, PENN, "--save", stopped, "--resume", stopped, *flags)
    one, other = torch.load(straight), torch.load(stopped)
    for part in ("model", "helpers"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), name
    assert one["progress"]["curve"] == other["progress"]["curve"]


def test_a_checkpoint_of_another_size_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "checkpoint.pt"
    run(monkeypatch, PENN, "--steps", 10, "--save", path, *SMALL)
    for flags, match in (
        (("--units", 16), "was saved with --units 12, this run has 16"),
        (("--lr", 5), "was saved with --lr 0.001, this run has 5.0"),
    ):
        with pytest.raises(SystemExit, match=match):
            run(monkeypatch, PENN, "--steps", 10, "--resume", path, *SMALL, *flags)
    monkeypatch.setattr(text, "MODULES", "argparse")
    with pytest.raises(SystemExit, match="another text: pass the same --data"):
        run(monkeypatch, PENN, "--steps", 10, "--resume", path, *SMALL)


@pytest.mark.parametrize("level", ["char", "word"])
def test_text_is_generated_from_a_checkpoint(monkeypatch, tmp_path, capsys, level):
    path = tmp_path / "checkpoint.pt"
    run(monkeypatch, PENN, "--steps", 10, "--save", path, *SMALL, "--level", level)
    capsys.readouterr()
    run(monkeypatch, "examples.penn_treebank.generate", path, "--count", 30)
    said = capsys.readouterr().out
    assert len(said) - 1 == 30 or level == "word"
    assert said.strip()


def test_the_penn_treebank_is_read_from_a_folder(tmp_path):
    for part in ("valid", "test"):
        (tmp_path / f"ptb.{part}.txt").write_text(" a line of words \n" * 40)
    small = text.load(str(tmp_path), "word")
    assert small.name == "penn small split"
    lines = [small.train.tolist().count(small.tokens.index(text.END_OF_LINE))]
    assert lines == [40 + 31]  # three quarters of the test text, to the end of a line
    (tmp_path / "ptb.train.txt").write_text(" other words \n" * 40)
    assert text.load(str(tmp_path), "word").name == "penn"
    assert text.load(str(tmp_path), "char").tokens[0] == "\n"
    with pytest.raises(SystemExit, match=r"has no ptb.valid.txt and ptb.test.txt: put"):
        text.load(str(tmp_path / "nowhere"), "char")


def test_a_name_of_text_is_enough_for_tables_unless_a_folder_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [text.name_of(name) for name in ("docs", "penn")] == ["docs", "penn"]
    assert text.name_of("penn small split") == "penn small split"
    Path("docs").mkdir()
    Path("penn").mkdir()
    for part in ("valid", "test"):
        Path(f"penn/ptb.{part}.txt").touch()
    assert [text.name_of(name) for name in ("docs", "penn")] == ["docs", "penn small split"]


def test_the_embedded_text_is_there_in_full(monkeypatch):
    monkeypatch.undo()
    corpus = text.load("docs", "char")
    assert len(corpus.train) > 300_000
    assert "\n" in text.decode(corpus.tokens, corpus.train[:200].tolist())


def test_unfitting_flags_are_refused(monkeypatch, capsys):
    for flags in (["--aux"], ["--context"], ["--window", "0"]):
        with pytest.raises(SystemExit):
            run(monkeypatch, "examples.row_mnist.main", *flags)
    assert "--aux adds a task to the synthesizer" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="expected equal sizes, got --embedding 64 and --units 8"):
        run(monkeypatch, PENN, "--tied", "--units", "8")


def test_the_benchmark_of_cost_runs(monkeypatch, tmp_path):
    path = tmp_path / "result.json"
    run(monkeypatch, "benchmarks.recurrent", "--windows", 25, "--turns", 1, "--json", path)
    rows = json.loads(path.read_text())["rows"]
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    gradients = {row["arm"]: row["gradient"] for row in rows}
    assert gradients["DNI"] == pytest.approx(gradients["by hand"], rel=1e-4)
    assert gradients["DNI"] != pytest.approx(gradients["BPTT"], rel=1e-3)


@pytest.mark.parametrize(
    ("networks", "size"),
    [
        (("rows7", "rows"), (3, 32)),
        (("copy3", "copy"), (3, 4)),
        (("penn5",), (24, 32)),
    ],
)
def test_the_evidence_has_the_recurrent_tasks(monkeypatch, tmp_path, capsys, networks, size):
    steps, batch = size
    flags = ["--seeds", 1, "--steps", steps, "--batch", batch, "--results", tmp_path]
    run(monkeypatch, "benchmarks.evidence.__main__", "--networks", *networks, *flags)
    _, head, _, *rows, _ = capsys.readouterr().out.splitlines()
    assert head.split()[-len(networks) :] == list(networks)
    cells = {row[:10].strip(): row[10:].count("(1)") for row in rows}
    told = len([name for name in networks if name[-1].isdigit()])  # the full unroll needs no DNI
    names = ["DNI", "DNI + aux", "cDNI", "cDNI + aux"]
    assert cells == {"BPTT": len(networks)} | dict.fromkeys(names, told)
    files = sorted(tmp_path.iterdir())
    assert len(files) == sum(cells.values())
    for file in files:
        outcome = json.loads(file.read_text())
        assert outcome["curve"][-1][0] == steps
        if networks != ("penn5",):  # whose curve is of another text
            assert outcome["curve"][-1][1] == outcome["score"]
        assert bool(outcome["cosines"]) == (outcome["arm"]["dni"] and networks != ("penn5",))


def test_the_arms_of_a_recurrent_task_differ_where_they_say():
    subjects = importlib.import_module("benchmarks.evidence.subjects").SUBJECTS
    for network, longer in (("rows7", "rows"), ("copy3", "copy"), ("penn5", "penn8")):
        arms = subjects[network].arms
        assert len({str(vars(arm)) for arm in arms.values()}) == len(arms)
        assert {arm.window for arm in arms.values()} == {int(network[-1])}
        assert arms["BPTT"] == replace(subjects[longer].arms["BPTT"], window=int(network[-1]))


def test_a_table_has_one_unit_and_arms_that_are_there(monkeypatch, capsys):
    for flags, said in (
        (
            ["--networks", "fc3", "copy3"],
            "expected networks of one unit, got ['longest",
        ),
        (["--trials", "--arms", "cDNI"], "--trials says which networks, arms and seeds"),
        (["--table", "--steps", "7"], "nothing of this has been run into "),
        (
            ["--networks", "copy3", "--arms", "cDNI", "local loss"],
            "expected arms of copy3, got local loss: name some of BPTT,",
        ),
    ):
        with pytest.raises(SystemExit):
            run(monkeypatch, "benchmarks.evidence.__main__", *flags)
        assert said in capsys.readouterr().err
