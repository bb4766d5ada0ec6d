"""The processes that train one net together, each on a device of its own: what each takes, and what they exchange.

All of them carry out the same run in the same order, draw the same random numbers, and hold the same weights. Alone,
which is the usual case, each part is the whole and nothing is exchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ferbal.errors import RefusedError, RunError
from ferbal.shapes import Int

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
else:
    Tensor = Module = Any  # what only asks where a run goes on need not import torch


@dataclass(frozen=True)
class Crew:
    """Which of `size` processes this is. Rank 0 yields what happens, and writes the files."""

    rank: int = 0
    size: int = 1

    def part(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch."""
        each = self._each(len(batch))
        return batch[self.rank * each : (self.rank + 1) * each]

    def divided(self, order: Int[np.ndarray, " n"], starts: range) -> tuple[Int[np.ndarray, " m"], range]:
        """This process's part of each batch of an order, and where those parts start in it."""
        whole = min(starts.step, len(order))
        each = self._each(whole)
        mine = order[: len(starts) * whole].reshape(len(starts), self.size, each)[:, self.rank].reshape(-1)
        return mine, range(0, len(mine), each)

    def _each(self, rows: int) -> int:
        if rows % self.size:
            raise RunError(
                f"a batch of {rows} rows cannot be divided evenly among training.devices: {self.size}; take a "
                f"search.batch_size that is a multiple of {self.size} and at most the number of training rows"
            )
        return rows // self.size

    def rows(self, count: int) -> Int[np.ndarray, " m"]:
        """The rows, of so many, that this process evaluates: equally many for each; the last wrap round to row 0."""
        each = -(-count // self.size)
        return np.arange(self.rank * each, (self.rank + 1) * each) % max(count, 1)

    def whole(self, part: Tensor) -> Tensor:
        """The parts of all processes one after another. Gradients go back into this process's own."""
        if self.size == 1:
            return part
        import torch
        from torch import distributed as dist

        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, part.detach().contiguous())
        parts[self.rank] = part
        return torch.cat(parts)

    def same(self, *nets: Module) -> None:
        """Give all processes what the first has: BatchNorm's statistics, which each gathers from its own part."""
        if self.size == 1:
            return
        from torch import distributed as dist

        for value in (value for net in dict.fromkeys(nets) for value in net.state_dict().values()):
            sent = value.contiguous()  # torch sends memory as it lies
            dist.broadcast(sent, 0)
            value.copy_(sent)

    def wrapped(self, net: Module) -> Module:
        """The net in DistributedDataParallel: `backward` averages gradients over all processes.

        Wrap it again when other parameters learn.
        """
        if self.size == 1:
            return net
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():  # of the name, whose successor older versions of torch do not know
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(net, broadcast_buffers=False)

    def synchronised(self, net: Module) -> Module:
        """The net, with BatchNorm over the parts of all processes together."""
        if self.size == 1:
            return net
        import torch

        if not torch.cuda.is_available():
            raise RefusedError("training.sync_batchnorm: torch has it for GPUs alone, and here is none; leave it out")
        from timm.layers import convert_sync_batchnorm  # torch's own would drop the activation of some of timm's

        # timm gives this function no types
        synchronised: Module = convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        return synchronised


ALONE = Crew()


@contextmanager
def joined(crew: Crew, meeting: tuple[str, int], card: int) -> Iterator[None]:
    """Be part of a crew, from when all have come until all are done.

    meeting: host and port of the store where they find each other. card: the GPU of this process, if there are any.
    """
    import torch
    from torch import distributed as dist

    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(card)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        store=_store(*meeting, is_master=False),
        rank=crew.rank,
        world_size=crew.size,
    )
    yield  # after an error the others may never answer: whoever started this process ends it
    dist.all_reduce(torch.zeros(1))  # nobody hangs up while another still listens
    dist.destroy_process_group()


def meeting_point(host: str) -> Any:
    """Where the processes of a crew find each other, on a free `port` of this host; held until all are done."""
    return _store(host, 0, is_master=True, wait_for_workers=False)


def _store(host: str, port: int, **given: Any) -> Any:
    from torch import distributed as dist

    # torch has it, and its stubs do not
    return dist.TCPStore(host, port, **given)  # type: ignore[attr-defined]
