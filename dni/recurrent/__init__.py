"""Recurrent networks: long dependencies from short windows.

Truncated BPTT unrolls a recurrent core for a *window* of a few steps, steps the optimiser
and throws the graph away: what lies beyond the window teaches nothing. A synthetic
gradient at the window's last state stands in for all losses to come.

* :func:`dni.windows` is the loop: windows, hand-over of the state, end of the sequence;
* :class:`dni.AuxiliaryTask` adds the paper's auxiliary task to it;
* :class:`dni.Synthesizer` adds synthetic gradients to an existing loop, in three lines, and
  trains itself.

:func:`dni.windows` is written with :meth:`dni.BackwardInterface.make_trigger` and
:meth:`dni.BackwardInterface.backward`, which may be called by hand as well.
"""

from dni.recurrent.auxiliary import AuxiliaryTask
from dni.recurrent.synthesizer import Synthesizer
from dni.recurrent.windows import Loop as Loop
from dni.recurrent.windows import Window as Window
from dni.recurrent.windows import windows

__all__ = ["windows", "AuxiliaryTask", "Synthesizer"]
