r"""Interfaces: where two parts of a network exchange messages.

PyTorch couples the parts of a network through one graph: part A hands an activation
:math:`h` to part B and then waits, for B's forward pass and for the gradient
:math:`g = \partial L / \partial h` to come back. An interface stands between the two. It
asks a *synthesizer* for the message that is not there yet, and hands that on. When the real
message arrives, the interface teaches it to the synthesizer (:mod:`dni._objective`):

===========================  ===================  ==============================  ===============
interface                    predicts             from the trigger                for whom
===========================  ===================  ==============================  ===============
:class:`.BackwardInterface`  the gradient ``g``   the activation ``h``            A need not wait
:class:`.ForwardInterface`   the activation       what both know, e.g. the input  B need not wait
both, as one                 both                 both                            nobody waits
===========================  ===================  ==============================  ===============

In eval mode and under ``torch.no_grad()`` every interface is the identity, bit for bit,
and calls no synthesizer.
"""

from dni.interfaces.backward import BackwardInterface
from dni.interfaces.bidirectional import BidirectionalInterface
from dni.interfaces.find import interfaces_of
from dni.interfaces.forward import ForwardInterface
from dni.interfaces.unidirectional import UnidirectionalInterface

__all__ = [
    "UnidirectionalInterface",
    "ForwardInterface",
    "BackwardInterface",
    "BidirectionalInterface",
    "interfaces_of",
]
