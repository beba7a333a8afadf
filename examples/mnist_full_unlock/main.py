"""Complete unlock: part B runs on a predicted input, part A learns from a predicted gradient.

A bidirectional interface stands between the parts. Its trigger is what both parts know, the
image. From the image, one synthesizer predicts part A's output, on which part B trains. From
part A's output, another predicts the gradient that part B will send. Here both parts live in
one process, to show that they learn; nothing in the arithmetic keeps them there.
"""

from __future__ import annotations

from torch import Tensor, nn

import dni
from examples import training
from examples.data import CLASSES, Images

WIDTH = 256


class Network(nn.Module):
    """Part A and part B, two layers each, with or without an interface between them."""

    def __init__(
        self,
        inputs: int,
        *,
        decoupled: bool = True,
        context: bool = False,
        unlock: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.context = context
        self.part_a = nn.Sequential(layer(inputs, WIDTH), layer(WIDTH, WIDTH))
        self.interface = None
        if decoupled:
            classes = CLASSES if context else None
            self.interface = dni.BidirectionalInterface(
                LabelBlind(WIDTH, 1, 2 * WIDTH, trigger_dim=inputs),
                dni.BasicSynthesizer(WIDTH, 1, 2 * WIDTH, context_classes=classes),
                unlock=unlock,
                normalize=normalize,
            )
        self.part_b = nn.Sequential(layer(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Class scores; the labels ``y`` reach the synthesizers, never the network."""
        x = x.flatten(1)
        h = self.part_a(x)
        if self.interface is not None:
            with dni.synthesizer_context(y if self.context else None):
                h = self.interface(h, x)
        return self.part_b(h)


class LabelBlind(dni.BasicSynthesizer):
    """Predicts part B's input without the label, which B could otherwise learn to read there."""

    def forward(self, trigger: Tensor, context: Tensor | None = None) -> Tensor:
        """The synthetic input; a context is ignored."""
        return super().forward(trigger, None)


def layer(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, batch norm, ReLU."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


def main() -> None:
    """Train with the options of the command line."""
    parser = training.options("MNIST, two parts that train without waiting for each other")
    training.interface_options(parser)
    parser.set_defaults(lr=1e-3, synthesizer_lr=1e-3)
    arguments = training.parse(parser)

    def build(data: Images, form: training.Form) -> nn.Module:
        return Network(data.train_x[0].numel(), **form)

    training.run(arguments, build)


if __name__ == "__main__":
    main()
