"""Decoupled Neural Interfaces for PyTorch: parts of a network that learn without waiting.

>>> synthesizer = dni.BasicSynthesizer(output_dim=256, n_hidden=1)
>>> interface = dni.BackwardInterface(synthesizer)
"""

from dni import diagnostics as diagnostics
from dni.contexts import backward, defer_backward, synthesizer_context
from dni.interfaces import (
    BackwardInterface,
    BidirectionalInterface,
    ForwardInterface,
    UnidirectionalInterface,
)
from dni.parameters import base_parameters, synthesizer_parameters
from dni.recurrent import AuxiliaryTask, Synthesizer, windows
from dni.synthesizers import BasicSynthesizer, Centered, ConvSynthesizer

__version__ = "0.1.0"

__all__ = [
    # interfaces
    "UnidirectionalInterface",
    "ForwardInterface",
    "BackwardInterface",
    "BidirectionalInterface",
    # synthesizers
    "BasicSynthesizer",
    "ConvSynthesizer",
    "Centered",
    # recurrent networks
    "windows",
    "AuxiliaryTask",
    "Synthesizer",
    # contexts
    "synthesizer_context",
    "defer_backward",
    "backward",
    # parameters
    "synthesizer_parameters",
    "base_parameters",
]
