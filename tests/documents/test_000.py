"""The newer document of the three-line library: the loss is backpropagated first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import dni
from tests.clones import clone
from tests.documents import loops
from tests.documents.blocks import run


@pytest.mark.parametrize("flags", [["."], ["-e", "."]], ids=" ".join)
def test_install(tmp_path, flags):
    """``pip install .`` and ``pip install -e .``; what it needs is there already."""
    source, target = clone(tmp_path / "clone"), tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    # --ignore-installed: pip must not uninstall what these tests run on
    offline = ["--no-deps", "--no-build-isolation", "--ignore-installed", "--prefix", str(target)]
    subprocess.run([*pip, *offline, *flags], cwd=source, check=True, timeout=180)
    installed = next(target.rglob("site-packages"))
    code = (
        f"import site; site.addsitedir({str(installed)!r}); import sys; "
        f"sys.path.insert(0, {str(installed)!r}); import dni; print(dni.__version__)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ""},
        check=True,
        timeout=180,
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == dni.__version__


def test_step_1():
    block = """
        import dni
        synthesizer = dni.Synthesizer(size = MODEL_SIZE, is_lstm = True).to('cpu')
    """
    made = run(block, {"MODEL_SIZE": 10})["synthesizer"]
    assert {parameter.device.type for parameter in made.parameters()} == {"cpu"}


def test_steps_2_and_3():
    rnn, x = torch.nn.LSTM(3, 10), torch.randn(5, 2, 3)
    synth = dni.Synthesizer(size=10, is_lstm=True)
    _, hidden_state = rnn(x, None)
    hidden_state[0].sum().backward(retain_graph=True)
    block = """
        hidden_state = synth.backward_synthetic(hidden_state)
    """
    space = run(block, {"synth": synth, "hidden_state": hidden_state})
    h, c = space["hidden_state"]
    assert all(part.is_leaf and part.requires_grad for part in (h, c))
    before = [parameter.clone() for parameter in synth.parameters()]
    output, _ = rnn(x, (h, c))
    output.sum().backward()
    run("synth.step()", {"synth": synth})  # the gradient of the first state has come
    synth.backward_synthetic(tuple((part * 1) for part in (h, c)))
    run("synth.step()", {"synth": synth})
    assert any(not torch.equal(a, b) for a, b in zip(before, synth.parameters(), strict=True))


SEQUENCES = """
    import dni

    MODEL_SIZE = 10
    TBPTT = 3
    BATCH_SIZE = 16

    rnn = nn.LSTM(input_size=MODEL_SIZE, hidden_size=MODEL_SIZE)

    synth = dni.Synthesizer(size = MODEL_SIZE, is_lstm = True).to('cpu')

    for X, targets in dataloader:
        hn = (torch.ones(1, BATCH_SIZE, MODEL_SIZE), torch.ones(1, BATCH_SIZE, MODEL_SIZE))
        for split in torch.split(X, TBPTT, dim = 1):
            out, hn = rnn(split, hn)
            loss = loss_func(out, targets)
            loss.backward(retain_graph = True)

            hn = synth.backward_synthetic(hn)

            optim.step()
            optim.zero_grad()

        synth.step()
"""
# Splitting dimension 1 is splitting time: the data is batch first, the LSTM is not.
BATCH_FIRST = {"hidden_size=MODEL_SIZE)": "hidden_size=MODEL_SIZE, batch_first=True)"}


def learnt(space):
    """The synthesizer's last layer started at zero."""
    weights = [p for p in space["synth"].parameters() if p.dim() == 2]
    return bool(weights[-1].abs().sum() > 0)


def test_the_basic_loop():
    space = run(SEQUENCES, loops.names(steps_of_one_input=False), misprints=BATCH_FIRST)
    assert len(space["optim"].gradients) == 4 * 3
    assert learnt(space)


CELLS = """
    import dni

    TBPTT = 5

    rnn_cell = nn.LSTMCell(input_size=MODEL_SIZE, hidden_size=MODEL_SIZE)

    synth = dni.Synthesizer(size = MODEL_SIZE, is_lstm = True).to('cpu')

    hn = (torch.ones(1, BATCH_SIZE, MODEL_SIZE), torch.ones(1, BATCH_SIZE, MODEL_SIZE))

    counter = 0
    losses = 0
    for X, y in dataloader:
        out, hn = rnn_cell(X, hn)
        losses += loss_func(out, y)

        if counter == TBPTT - 1:
            losses.backward(retain_graph = True)

            hn = synth.backward_synthetic(h_n, losses)

            optim.step()
            optim.zero_grad()

            synth.step()
            losses = 0
            counter = 0

        counter += 1
"""
NAME_OF_THE_STATE = {"backward_synthetic(h_n, losses)": "backward_synthetic(hn, losses)"}


def test_the_loop_over_single_inputs():
    space = run(CELLS, loops.names(steps_of_one_input=True), misprints=NAME_OF_THE_STATE)
    assert len(space["optim"].gradients) == 5  # counter starts at 0 once, and at 1 afterwards
    assert learnt(space)
