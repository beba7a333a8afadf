"""The document of the wrapper (004; 002 is an older copy of it): its code blocks, as printed.

Misprints: ``super(LinearDNI, self)`` in a class of another name, and ``parametes``.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

import dni
from tests.documents.blocks import run


class WhateverNetwork(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)

    def forward(self, x, scale):
        return self.last(torch.tanh(self.first(x))) * scale


INPUT, TARGET = torch.randn(6, 4), torch.tensor([0, 1, 2] * 2)
NAMES = {
    "torch": torch,
    "nn": nn,
    "F": F,
    "optim": optim,
    "WhateverNetwork": WhateverNetwork,
    "kwargs": {"width": 8},
    "args": (1.0,),
    "input": INPUT,
    "target_output": TARGET,
    "criterion": nn.CrossEntropyLoss(),
    "epoch": 3,
    "image_size": 2,
}
EVERY_LEAF = """
from dni import DNI

net = WhateverNetwork(**kwargs)
opt = optim.Adam(net.parameters(), lr=0.001)

net = DNI(net, grad_optim='adam', grad_lr=0.0001)

for e in range(epoch):
  opt.zero_grad()
  output = net(input, *args)
  loss = criterion(output, target_output)
  loss.backward()

  # opt.step()
...
"""
CUSTOM_LAYER = """
from dni import *

class Net(nn.Module):
  def __init__(self, num_layers=3, hidden_size=256, dni_layers=[]):
    super(Net, self).__init__()
    self.num_layers = num_layers
    self.hidden_size = hidden_size

    self.net = [self.dni(self.layer(
        image_size*image_size if l == 0 else hidden_size,
        hidden_size
    )) if l in dni_layers else self.layer(
        image_size*image_size if l == 0 else hidden_size,
        hidden_size
    ) for l in range(self.num_layers)]
    self.final = self.layer(hidden_size, 10)

    for ctr, n in enumerate(self.net):
      setattr(self, 'layer'+str(ctr), n)

  def layer(self, input_size, hidden_size):
    return nn.Sequential(
      nn.Linear(input_size, hidden_size),
      nn.BatchNorm1d(hidden_size)
    )

  def dni(self, layer):
    d = DNI(layer, hidden_size=256, grad_optim='adam', grad_lr=0.0001, recursive=False)
    return d

  def forward(self, x):
    output = x.view(-1, image_size*image_size)
    for layer in self.net:
      output = F.relu(layer(output))
    output = self.final(output)
    return F.log_softmax(output, dim=-1)

net = Net(num_layers=3, dni_layers=[1,2,3])

opt = optim.Adam(net.final.parametes(), lr=0.001)

for e in range(epoch):
  opt.zero_grad()
  output = net(input)
  loss = criterion(output, target_output)
  loss.backward()
"""
LAST_LINE_OF_002 = "  opt.step()\n"
CUSTOM_NETWORK = """
from dni import *

class MyCustomDNI(DNINetwork):

  def __init__(self, input_size, hidden_size, output_size, num_layers=2, bias=True):

    super(LinearDNI, self).__init__(input_size, hidden_size, output_size)

    self.input_size = input_size
    self.hidden_size = hidden_size * 4
    self.output_size = output_size
    self.num_layers = num_layers
    self.bias = bias

    self.net = [self.layer(
        input_size if l == 0 else self.hidden_size,
        self.hidden_size
    ) for l in range(self.num_layers)]

    for ctr, n in enumerate(self.net):
      setattr(self, 'layer'+str(ctr), n)

    self.final = nn.Linear(self.hidden_size, output_size)

  def layer(self, input_size, hidden_size):
      return nn.Linear(input_size, hidden_size)

  def forward(self, input, hidden):
    output = input
    for layer in self.net:
      output = F.relu(layer(output))
    output = self.final(output)

    return output, None

net = WhateverNetwork(**kwargs)
opt = optim.Adam(net.parameters(), lr=0.001)

net = DNI(net, grad_optim='adam', grad_lr=0.0001, dni_network=MyCustomDNI,
      dni_params={'num_layers': 3, 'bias': True})

for e in range(epoch):
  opt.zero_grad()
  output = net(input, *args)
  loss = criterion(output, target_output)
  loss.backward()
"""
INTERFACE = """
from dni import *

class MyDNI(DNINetwork):

  def __init__(self, input_size, hidden_size, output_size, **kwargs):
    super(MyDNI, self).__init__(input_size, hidden_size, output_size)
    # ...

  def forward(self, input, hidden):
    # ...
    return output, hidden
"""
MISPRINTS = {"super(LinearDNI, self)": "super(MyCustomDNI, self)"}


def test_every_leaf_learns_without_a_step_of_the_optimiser():
    torch.manual_seed(0)
    names = run(EVERY_LEAF, NAMES)
    net = names["net"]
    torch.manual_seed(0)
    before = dict(WhateverNetwork(8).named_parameters())
    after = dict(net.network.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    assert list(dni.interfaces_of(net.network)) == ["first", "last"]
    for interface in dni.interfaces_of(net).values():
        assert isinstance(interface.synthesizer.network, dni.LinearDNI)
        assert interface.synthesizer.network.final.weight.any()  # the synthesizers learn too
        assert interface.mix == 0.5


def test_and_with_one_it_learns_twice():
    torch.manual_seed(0)
    once = run(EVERY_LEAF, NAMES)["net"].network.first.weight
    torch.manual_seed(0)
    twice = run(EVERY_LEAF.replace("# opt.step()", "opt.step()"), NAMES)["net"]
    assert not torch.equal(once, twice.network.first.weight)


@pytest.mark.parametrize("last_line", ["", LAST_LINE_OF_002], ids=["004", "002"])
def test_custom_layers(last_line):
    block = CUSTOM_LAYER + last_line
    net = run(block, NAMES, misprints={"parametes": "parameters"})["net"]
    assert [isinstance(layer, dni.DNI) for layer in net.net] == [False, True, True]
    assert list(dni.interfaces_of(net)) == ["layer1.network.1", "layer2.network.1"]
    for layer in net.net[1:]:
        assert len(layer.optim.state) == 4  # weights and biases of both modules have stepped
        assert len(layer.grad_optim.state) == 6
    assert net.final[0].weight.grad is not None


def test_a_custom_network():
    names = run(CUSTOM_NETWORK, NAMES, misprints=MISPRINTS)
    for interface in dni.interfaces_of(names["net"]).values():
        made = interface.synthesizer.network
        assert type(made) is names["MyCustomDNI"]
        assert (made.num_layers, made.bias, made.hidden_size) == (3, True, 40)
        assert len(list(made.parameters())) == 8


def test_the_interface_of_a_network():
    fill = ["self.inner = nn.Linear(input_size, output_size)", "output = self.inner(input)"]
    names = run(INTERFACE, NAMES, fill)
    net = dni.DNI(nn.Linear(4, 3), dni_network=names["MyDNI"])
    F.cross_entropy(net(INPUT), TARGET).backward()
    assert net.network.dni_interface.synthesizer.network.inner.in_features == 3
