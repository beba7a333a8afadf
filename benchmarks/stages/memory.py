"""How many bytes of activations a process holds, at its worst.

The allocator's peak of a whole process is mostly weights, Adam's moments and gradients, which no
schedule changes; what a schedule changes is how many activations wait for their backward pass.
PyTorch keeps no account of those, but lets us see each tensor that a graph saves
(``saved_tensors_hooks``), and each storage be freed (a finalizer on its Python object, which
lives as long as the storage does). So this counts, the same way for every arm:

* what autograd saves for the backward pass;
* what goes into and comes out of the modules, which a schedule may keep longer than the graph;
* what the schedule says that it keeps: :meth:`Held.watch`;

each storage once and with all its bytes, whoever shares it, from the time that it is seen until
it is freed, whoever keeps it. Parameters and buffers do not count. Nor do gradients, in any arm.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque

import torch
from torch import Tensor, nn


class Held:
    """Counts the bytes of activations that are alive, within a ``with`` block.

    The hooks are those of the thread that enters it: forward passes of other threads are not
    seen, releases in other threads are. One block can be entered again; counts go on.

    Args:
        modules: whose inputs and outputs count, and whose parameters and buffers do not.

    Example:
        >>> from benchmarks.stages.memory import Held
        >>> layer = torch.nn.Linear(4, 8)  # saves its input: 3 * 4 numbers of 4 bytes
        >>> with Held(layer) as held:
        ...     layer(torch.ones(3, 4)).sum().backward()
        >>> held.peak == (3 * 4 + 3 * 8) * 4, held.now
        (True, 0)
    """

    peak: int = 0
    """The most bytes that were alive at once."""

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._sizes: dict[int, int] = {}  # of the living, by the id of the storage's object
        self._dead: deque[int] = deque()  # appended to by finalizers: no lock in those
        self._lock = threading.Lock()

    @property
    def now(self) -> int:
        """Bytes that are alive."""
        with self._lock:
            return self._count()

    def watch(self, *tensors: object) -> None:
        """Count these, until they are freed; what is no tensor, or counted already, is not."""
        with self._lock:
            for tensor in tensors:
                if isinstance(tensor, Tensor):
                    self._add(tensor.untyped_storage())
            self.peak = max(self.peak, self._count())

    def __enter__(self) -> Held:
        self._still = {  # the objects, not their ids alone: an id may be given again
            id(tensor.untyped_storage()): tensor.untyped_storage()
            for module in self._modules
            for tensor in (*module.parameters(), *module.buffers())
        }
        self._handles = [module.register_forward_hook(self._passed) for module in self._modules]
        self._saved = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._saved.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._saved.__exit__(*exception)
        for handle in self._handles:
            handle.remove()

    def _pack(self, tensor: Tensor) -> Tensor:
        self.watch(tensor)
        return tensor.detach()  # the tensor itself may be an output of the node that keeps it

    def _passed(self, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        self.watch(*inputs, *(output if isinstance(output, (tuple, list)) else (output,)))

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._count()  # an id that is free again leaves before it comes back
        key = id(storage)
        if key not in self._sizes and key not in self._still:
            self._sizes[key] = storage.nbytes()
            weakref.finalize(storage, self._dead.append, key).atexit = False

    def _count(self) -> int:
        while self._dead:
            del self._sizes[self._dead.popleft()]
        return sum(self._sizes.values())
