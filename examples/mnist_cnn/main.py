"""Update unlock for feature maps: synthesizers that know what is where.

The gradient of a map is a map. In front of the linear layer, where each place has weights of its
own, what a place needs depends on which place it is, and on what the whole map shows. With labels,
a synthesizer predicts the loss by a linear classifier of the map, and sends the gradient of that
loss. Without labels, it is the sum of a convolution and a coarse view of the whole map.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

import dni
from examples import training
from examples.data import CLASSES, Images

CHANNELS = 32


class Network(nn.Module):
    """``layers`` x (convolution, batch norm, ReLU, pooling, interface), then linear."""

    def __init__(
        self,
        side: int,
        layers: int = 2,
        *,
        decoupled: bool = True,
        context: bool = False,
        unlock: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.context = context
        channels = [1, *[CHANNELS] * layers]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(i, o, 5, padding=2), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)
            )
            for i, o in pairwise(channels)
        )
        self.interfaces = nn.ModuleList(
            dni.BackwardInterface(
                synthesizer(side // 2**layer, context),
                unlock=unlock,
                normalize=None if normalize else False,
            )
            for layer in range(1, layers + 1 if decoupled else 1)
        )
        self.output = nn.Linear(CHANNELS * (side // 2**layers) ** 2, CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Class scores; the labels ``y`` reach the synthesizers, never the network."""
        with dni.synthesizer_context(y if self.context else None):
            for index, layer in enumerate(self.layers):
                x = layer(x)
                if self.interfaces:
                    x = self.interfaces[index](x)
        return self.output(x.flatten(1))


def synthesizer(side: int, context: bool) -> nn.Module:
    """What :func:`dni.synthesizer_for` would choose for maps of ``side`` x ``side``."""
    shape = (CHANNELS, side, side)
    if context:
        return dni.Centered(dni.LossSynthesizer(shape, context_classes=CLASSES), over=0)
    return dni.Centered(dni.MapSynthesizer(shape), over=0)


def main() -> None:
    """Train with the options of the command line."""
    parser = training.options("MNIST, convolutional, decoupled after every layer")
    parser.add_argument(
        "--layers", type=int, default=2, choices=(1, 2, 3), help="convolutional layers"
    )
    training.interface_options(parser)
    arguments = training.parse(parser)

    def build(data: Images, form: training.Form) -> nn.Module:
        return Network(data.train_x.shape[-1], arguments.layers, **form)

    training.run(arguments, build)


if __name__ == "__main__":
    main()
