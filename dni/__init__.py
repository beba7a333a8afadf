"""Decoupled Neural Interfaces for PyTorch: parts of a network that learn without waiting.

>>> synthesizer = dni.BasicSynthesizer(output_dim=256, n_hidden=1)
>>> interface = dni.BackwardInterface(synthesizer)
"""

from dni import contexts, decoupling, interfaces, parameters, recurrent, replay, synthesizers
from dni import diagnostics as diagnostics
from dni.contexts import *
from dni.decoupling import *
from dni.interfaces import *
from dni.parameters import *
from dni.recurrent import *
from dni.replay import *
from dni.synthesizers import *

__version__ = "0.1.0"

__all__: list[str] = []
__all__ += interfaces.__all__
__all__ += synthesizers.__all__
__all__ += recurrent.__all__
__all__ += decoupling.__all__
__all__ += replay.__all__
__all__ += contexts.__all__
__all__ += parameters.__all__
