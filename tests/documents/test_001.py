"""The older document of the three-line library: the synthetic gradient goes first."""

from __future__ import annotations

import torch

import dni
from tests.documents import loops, test_000
from tests.documents.blocks import run
from tests.documents.test_000 import BATCH_FIRST, NAME_OF_THE_STATE, learnt, test_install

__all__ = ["test_install"]  # the same commands


def test_step_1():
    block = """
        import dni
        synthesizer = dni.Synthesizer(size = MODEL_SIZE, is_lstm = True)
    """
    assert isinstance(run(block, {"MODEL_SIZE": 10})["synthesizer"], dni.Synthesizer)


def test_steps_2_and_3():
    rnn, x = torch.nn.LSTM(3, 10), torch.randn(5, 2, 3)
    synth = dni.Synthesizer(size=10, is_lstm=True)
    output, hidden_state = rnn(x, None)
    block = """
        # INSIDE TRAINING LOOP
            hidden_state = synth.backward_synthetic(hidden_state)
    """
    space = run(block.replace("            hidden", "        hidden"), locals())
    output.sum().backward()  # the graph is still there
    assert all(part.is_leaf and part.requires_grad for part in space["hidden_state"])
    run("synth.step()", {"synth": synth})


SEQUENCES = """
    import dni

    MODEL_SIZE = 10
    TBPTT = 3
    BATCH_SIZE = 16

    rnn = nn.LSTM(input_size=MODEL_SIZE, hidden_size=MODEL_SIZE)

    synth = dni.Synthesizer(size = MODEL_SIZE, is_lstm = True)

    for X, y in dataloader:
        hn = (torch.ones(1, BATCH_SIZE, MODEL_SIZE, requires_grad = True),
              torch.ones(1, BATCH_SIZE, MODEL_SIZE, requires_grad = True))

        for split in torch.split(X, TBPTT, dim = 1):
            out, hn = rnn(split, hn)
            loss = loss_func(out, y)

            hn = synth.backward_synthetic(hn, loss)

            loss.backward()
            optim.step()
            optim.zero_grad()

        synth.step()
"""


def test_the_basic_loop():
    space = run(SEQUENCES, loops.names(steps_of_one_input=False), misprints=BATCH_FIRST)
    assert len(space["optim"].gradients) == 4 * 3
    assert learnt(space)


CELLS = """
    import dni

    TBPTT = 5

    rnn_cell = nn.LSTMCell(input_size=MODEL_SIZE, hidden_size=MODEL_SIZE)

    synth = dni.Synthesizer(size = MODEL_SIZE, is_lstm = True)

    hn = (torch.ones(1, BATCH_SIZE, MODEL_SIZE, requires_grad = True),
          torch.ones(1, BATCH_SIZE, MODEL_SIZE, requires_grad = True))

    counter = 0
    losses = 0
    for X, y in dataloader:
        out, hn = rnn_cell(X, hn)
        losses += loss_func(out, y)

        if counter == TBPTT:
            hn = synth.backward_synthetic(h_n, losses)

            losses.backward()
            optim.step()
            optim.zero_grad()

            synth.step()
            counter = 0

        counter += 1
"""
# Without it the second window's loss contains the first's, whose graph is gone; the newer
# document has the line.
RESET = {"            counter = 0\n": "            losses = 0\n            counter = 0\n"}


def test_the_loop_over_single_inputs():
    space = run(CELLS, loops.names(steps_of_one_input=True), misprints=NAME_OF_THE_STATE | RESET)
    assert len(space["optim"].gradients) == 4
    assert learnt(space)


def test_both_orders_send_the_same_gradients():
    """The two documents' loops, on the same data and weights, step for step."""
    data = loops.names(steps_of_one_input=False)["dataloader"]
    gradients = []
    for block in (test_000.SEQUENCES, SEQUENCES):
        torch.manual_seed(2)
        names = loops.names(steps_of_one_input=False) | {"dataloader": data}
        gradients.append(run(block, names, misprints=BATCH_FIRST)["optim"].gradients)
    for one, other in zip(*gradients, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)
