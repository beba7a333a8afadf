"""Update unlock: hidden layers that learn before the loss is known.

An interface stands after every hidden layer. Each layer receives a gradient that a
synthesizer predicts from the layer's own output. The real gradient, when it comes, only
teaches the synthesizer.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

import dni
from examples import training
from examples.data import CLASSES, Images

WIDTH = 256


class Network(nn.Module):
    """``layers`` x (linear, batch norm, ReLU, interface), then a linear classifier."""

    def __init__(
        self,
        inputs: int,
        layers: int = 3,
        *,
        decoupled: bool = True,
        context: bool = False,
        unlock: bool = True,
        normalize: bool = True,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        self.context = context
        widths = [inputs, *[WIDTH] * layers]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU())
            for i, o in pairwise(widths)
        )
        self.interfaces = nn.ModuleList(
            dni.BackwardInterface(synthesizer(hidden, context), unlock=unlock, normalize=normalize)
            for _ in range(layers if decoupled else 0)
        )
        self.output = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Class scores; the labels ``y`` reach the synthesizers, never the network."""
        x = x.flatten(1)
        with dni.synthesizer_context(y if self.context else None):
            for index, layer in enumerate(self.layers):
                x = layer(x)
                if self.interfaces:
                    x = self.interfaces[index](x)
        return self.output(x)


def synthesizer(hidden: int, context: bool) -> dni.Centered:
    """One hidden layer; with labels, a column of weights for each class."""
    return dni.Centered(
        dni.BasicSynthesizer(
            WIDTH, n_hidden=1, hidden_dim=hidden, context_classes=CLASSES if context else None
        )
    )


def main() -> None:
    """Train with the options of the command line."""
    parser = training.options("MNIST, fully connected, decoupled after every hidden layer")
    parser.add_argument("--layers", type=int, default=3, choices=range(1, 7), help="hidden layers")
    parser.add_argument("--hidden", type=int, default=1024, help="width of the synthesizers")
    training.interface_options(parser)
    arguments = training.parse(parser)

    def build(data: Images, form: training.Form) -> nn.Module:
        inputs = data.train_x[0].numel()
        return Network(inputs, arguments.layers, hidden=arguments.hidden, **form)

    training.run(arguments, build)


if __name__ == "__main__":
    main()
