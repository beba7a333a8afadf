"""Parts of a network that live in processes of their own.

>>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
>>> bottom, top = dni.distributed.split(model, at=["1"])
"""

from dni.distributed.parts import merge, split
from dni.distributed.wire import Frame, Header, WireError, pack, unpack, unpack_header

__all__ = ["Frame", "Header", "WireError", "merge", "pack", "split", "unpack", "unpack_header"]
