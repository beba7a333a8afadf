"""Networks that somebody else wrote: decoupled by name, and made plain again.

* :func:`dni.decouple` attaches interfaces to a network, :func:`dni.strip` takes them away, and
  :func:`dni.validate` says beforehand what would go wrong;
* :class:`dni.DNI` and :class:`dni.CDNI` cut after every leaf, and train the network, in one line.
"""

from dni.decoupling.attach import decouple, strip
from dni.decoupling.networks import (
    RNNDNI,
    Conv2dDNI,
    DNINetwork,
    LinearBatchNormDNI,
    LinearDNI,
    LinearSigmoidDNI,
)
from dni.decoupling.validate import validate
from dni.decoupling.wrapper import CDNI, DNI

__all__ = [
    "decouple",
    "strip",
    "validate",
    "DNI",
    "CDNI",
    "DNINetwork",
    "LinearDNI",
    "LinearSigmoidDNI",
    "LinearBatchNormDNI",
    "RNNDNI",
    "Conv2dDNI",
]
