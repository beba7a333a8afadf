r"""Synthesizers: small regression models that predict a message.

To an interface, a synthesizer is any ``torch.nn.Module`` with

.. code-block:: python

    def forward(self, trigger, context):   # one tensor, any object
        return message                     # one tensor, of the message's shape

``trigger`` comes detached; ``context`` is what :func:`dni.synthesizer_context` was given,
or ``None``. The ready-made synthesizers are small networks whose last layer starts at zero,
weight *and* bias: until it has learnt, a synthesizer sends exactly nothing, not noise.

A context enters the first layer beside the trigger. So the paper's synthesizer for cDNI,
linear in :math:`[h, c]`, is ``n_hidden=0``.
"""

from dni.synthesizers.basic import BasicSynthesizer
from dni.synthesizers.centered import Centered
from dni.synthesizers.choice import synthesizer_for
from dni.synthesizers.conv import ConvSynthesizer
from dni.synthesizers.local import LocalLossSynthesizer
from dni.synthesizers.loss import LossSynthesizer
from dni.synthesizers.maps import MapSynthesizer
from dni.synthesizers.tokens import TokenSynthesizer

__all__ = [
    "BasicSynthesizer",
    "TokenSynthesizer",
    "ConvSynthesizer",
    "MapSynthesizer",
    "LossSynthesizer",
    "LocalLossSynthesizer",
    "Centered",
    "synthesizer_for",
]
