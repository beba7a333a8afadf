"""The document of the first message-passing library for PyTorch: its every code block."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from tests.documents.blocks import run

ROOT = Path(__file__).parents[2]
INPUT, ACTIVATION, CLASSES = 5, 6, 4
NAMES = {"torch": torch, "dni": dni, "activation_dim": ACTIVATION, "context_dim": CLASSES}


def data(rows=8):
    return torch.randn(rows, INPUT), torch.randint(CLASSES, (rows,))


def train(model, *arguments, target):
    """Two steps of the plain loop; the loss of both."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(*arguments), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def learnt(synthesizer):
    return all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in synthesizer.layers[-1].parameters()
    )


INIT_FILL = ["super().__init__()\nself.a = torch.nn.Linear(5, 6)", "self.b = torch.nn.Linear(6, 4)"]
FORWARD_FILL = ["x = self.a(x)", "x = self.b(x)"]


def test_install():
    """``python setup.py install``: the script is there and knows the distribution."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "--name"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert answer.stdout.split()[-1] == "dni-torch"


FEED_FORWARD = """
    class Network(torch.nn.Module):

        def __init__(self):
            # ...

            self.backward_interface = dni.BackwardInterface(
                dni.BasicSynthesizer(output_dim=activation_dim, n_hidden=1)
            )

            # ...

        def forward(self, x):
            # ...

            x = self.backward_interface(x)

            # ...

            return x
"""


def test_synthetic_gradient_for_feed_forward_networks():
    model = run(FEED_FORWARD, NAMES, INIT_FILL + FORWARD_FILL)["Network"]()
    x, y = data()
    model(x)
    assert model.a.weight.grad is not None  # during the forward pass, as the document says
    assert model.b.weight.grad is None
    train(model, x, target=y)
    assert learnt(model.backward_interface.synthesizer)


CONTEXT = """
    class Network(torch.nn.Module):

        def __init__(self):
            # ...

            self.backward_interface = dni.BackwardInterface(
                dni.BasicSynthesizer(
                    output_dim=activation_dim, n_hidden=1,
                    context_dim=context_dim
                )
            )

            # ...

        def forward(self, x, y):
            # ...

            with dni.synthesizer_context(y):
                x = self.backward_interface(x)

            # ...

            return x
"""


def test_conditioning_on_labels():
    model = run(CONTEXT, NAMES, INIT_FILL + FORWARD_FILL)["Network"]()
    x, y = data()
    train(model, x, F.one_hot(y, CLASSES).float(), target=y)
    synthesizer = model.backward_interface.synthesizer
    assert learnt(synthesizer)
    assert synthesizer.input_context.weight.grad.abs().sum() > 0


COMPLETE = """
    class Network(torch.nn.Module):

        def __init__(self):
            # ...

            self.bidirectional_interface = dni.BidirectionalInterface(
                dni.BasicSynthesizer(
                    output_dim=activation_dim, n_hidden=1,
                    trigger_dim=input_dim
                ),
                dni.BasicSynthesizer(
                    output_dim=activation_dim, n_hidden=1
                )
            )

            # ...

        def forward(self, input):
            x = input

            # ...

            x = self.backward_interface(x, input)

            # ...

            return x
"""


def test_complete_unlock_for_feed_forward_networks():
    model = run(
        COMPLETE,
        NAMES | {"input_dim": INPUT},
        INIT_FILL + FORWARD_FILL,
        misprints={"x = self.backward_interface(x": "x = self.bidirectional_interface(x"},
    )["Network"]()
    x, y = data()
    train(model, x, target=y)
    interface = model.bidirectional_interface
    assert learnt(interface.forward_interface.synthesizer)
    assert learnt(interface.backward_interface.synthesizer)
    assert model.a.weight.grad is not None


CUSTOM = """
    class CustomSynthesizer(torch.nn.Module):

        def forward(self, trigger, context):
            # synthesize the message
            return message
"""


@pytest.mark.parametrize("context", [None, "anything"])
def test_writing_custom_synthesizers(context):
    """``message`` is the reader's; whatever is given as context arrives."""
    message = torch.ones(8, ACTIVATION)
    made = run(CUSTOM, NAMES | {"message": message})["CustomSynthesizer"]()
    seen = []
    made.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[1]))
    part_a = nn.Linear(INPUT, ACTIVATION)
    interface = dni.BackwardInterface(made)
    x, _ = data()
    if context is None:
        interface(part_a(x))
    else:
        with dni.synthesizer_context(context):
            interface(part_a(x))
    assert seen == [context]
    torch.testing.assert_close(part_a.bias.grad, message.sum(0))


RECURRENT = """
    class Network(torch.nn.module):

        def __init__(self):
            # ...

            self.backward_interface = dni.BackwardInterface(
                dni.BasicSynthesizer(output_dim=hidden_dim, n_hidden=1)
            )

            # ...

        def forward(self, input, hidden):
            # ...

            hidden = self.backward_interface.make_trigger(hidden)
            (output, hidden) = self.rnn(input, hidden)
            self.backward_interface.backward(hidden)

            # ...
"""

LOOP = """
    with dni.defer_backward():
        (output, hidden) = model(input, hidden)
        loss = criterion(output, target)
        dni.backward(loss)
"""


def test_synthetic_gradient_for_recurrent_networks():
    network = run(
        RECURRENT,
        NAMES | {"hidden_dim": ACTIVATION},
        [
            "super().__init__()\nself.rnn = torch.nn.RNN(5, 6)",
            "pass",
            "hidden = hidden.detach()",
            "return (output, hidden)",
        ],
        misprints={"torch.nn.module": "torch.nn.Module"},
    )["Network"]
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    space = NAMES | {
        "model": model,
        "criterion": F.mse_loss,
        "hidden": torch.zeros(1, 2, ACTIVATION),
    }
    for _ in range(3):
        optimizer.zero_grad()
        window = {"input": torch.randn(4, 2, INPUT), "target": torch.randn(4, 2, ACTIVATION)}
        space = run(LOOP, space | window)
        optimizer.step()
    assert learnt(model.backward_interface.synthesizer)
    assert model.rnn.weight_hh_l0.grad.abs().sum() > 0


PARTS = """
    class PartA(torch.nn.Module):

        def forward(self, input):
            x = input

            # ...

            self.bidirectional_interface.send(x, input)

    class PartB(torch.nn.Module):

        def forward(self, input):
            x = self.bidirectional_interface.receive(input)

            # ...

            return x
"""


def test_distributed_training_with_a_complete_unlock():
    space = run(PARTS, NAMES, ["x = self.a(x)", "x = self.b(x)"])
    part_a, part_b = space["PartA"](), space["PartB"]()
    part_a.a, part_b.b = nn.Linear(INPUT, ACTIVATION), nn.Linear(ACTIVATION, CLASSES)
    for part in (part_a, part_b):
        part.bidirectional_interface = dni.BidirectionalInterface(
            dni.BasicSynthesizer(ACTIVATION, 1, trigger_dim=INPUT),
            dni.BasicSynthesizer(ACTIVATION, 1),
        )
    optimizers = [torch.optim.Adam(part.parameters(), 1e-2) for part in (part_a, part_b)]
    x, y = data()
    for step in range(20):
        for optimizer in optimizers:
            optimizer.zero_grad()
        part_a(x)
        loss = F.cross_entropy(part_b(x), y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if step % 5 == 0:  # "synchronized between PartA and PartB once in a while"
            a, b = part_a.bidirectional_interface, part_b.bidirectional_interface
            b.forward_interface.load_state_dict(a.forward_interface.state_dict())
            a.backward_interface.load_state_dict(b.backward_interface.state_dict())
    sender, receiver = part_a.bidirectional_interface, part_b.bidirectional_interface
    assert learnt(sender.forward_interface.synthesizer)
    assert learnt(receiver.backward_interface.synthesizer)
    assert part_a.a.weight.grad.abs().sum() > 0
