"""Parts of a network that train in processes of their own.

>>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
>>> bottom, top = dni.distributed.split(model, at=["1"])
"""

from dni.distributed.c10d import C10dChannel
from dni.distributed.channels import Channel, Counters, Kind, Message, Peer, in_process
from dni.distributed.checkpoints import Checkpoints, export, merged
from dni.distributed.complete import CompleteA, CompleteB
from dni.distributed.ends import Batch, EndA, EndB
from dni.distributed.here import Place, this_stage
from dni.distributed.parts import merge, split
from dni.distributed.stage import Stage, take_turns
from dni.distributed.stores import open_store, serve_store
from dni.distributed.update import UpdateA, UpdateB
from dni.distributed.wire import Frame, Header, WireError, pack, unpack, unpack_header

__all__ = ["Batch", "Place", "Stage", "take_turns", "this_stage"]
__all__ += ["CompleteA", "CompleteB", "EndA", "EndB", "UpdateA", "UpdateB"]
__all__ += ["Checkpoints", "export", "merge", "merged", "split"]
__all__ += ["Channel", "Counters", "Kind", "Message", "Peer", "in_process"]
__all__ += ["C10dChannel", "open_store", "serve_store"]
__all__ += ["Frame", "Header", "WireError", "pack", "unpack", "unpack_header"]
