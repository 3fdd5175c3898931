"""The processes of a run: one alone, or as many as `torchrun` started."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clipsearch.errors import UsageError
from clipsearch_train.compute import pick_device

# The others wait this long while the first process evaluates or asks the teachers.
_PATIENCE = timedelta(hours=6)
_LETTING_GO = 0.5
"""Seconds. When the last operation is done, a thread of gloo's may still hold its tensors. If it lets go
of them while the interpreter ends, the process is aborted (pytorch/pytorch#179291), and destroying the
group does not wait for its threads."""


def asked_processes() -> int:
    """How many processes torchrun started: 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class World:
    """This process's number among `size`, and where it computes.

    Of several processes the first (`is_main`) writes, evaluates and speaks. Tensors for `gather` and
    `total` are on `device` or on the CPU; every process has to call them in the same order.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> World:
        """The world that torchrun's environment variables describe; of one process where there are none.

        CUDA devices talk through NCCL, CPUs through gloo. Raises UsageError for a device that is not here,
        more processes than GPUs, or half an environment.
        """
        size = asked_processes()
        if size == 1:
            return cls(pick_device(device))
        chosen = pick_device(device)
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if chosen.type == "cuda":
            if local >= torch.cuda.device_count():
                raise UsageError(
                    f"torchrun started more processes than this machine has GPUs, "
                    f"{torch.cuda.device_count()}; give --nproc-per-node that number, or set compute.device."
                )
            chosen = torch.device("cuda", local)
            torch.cuda.set_device(chosen)
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        if not dist.is_initialized():
            try:
                dist.init_process_group(backend, timeout=_PATIENCE)
            except (ValueError, RuntimeError) as error:
                raise UsageError(
                    f"The processes of this run cannot meet: {error}. Start them with torchrun."
                ) from error
        return cls(chosen, dist.get_rank(), size)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def leave(self) -> None:
        """Part from the other processes."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
            time.sleep(_LETTING_GO)

    def part(self, count: int) -> slice:
        """Which of `count` places of the whole batch are this process's."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def barrier(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process runs the body, then the others: they find what it left in files."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, without gradient."""
        if self.size == 1:
            return values.detach()
        summed = values.detach().clone()
        dist.all_reduce(summed)
        return summed

    def counts(self, *own: int) -> Tensor:
        """What each process has of several things: int64 (size, things)."""
        table = torch.zeros((self.size, len(own)), dtype=torch.int64)
        table[self.rank] = torch.tensor(own)
        return self.total(table)

    def gather(self, rows_ND: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all processes in their order: (N, …) -> (M, …); gradients flow back.

        `counts` says how many rows each process has; they may differ.
        """
        if self.size == 1:
            return rows_ND
        gathered: Tensor = _Gather.apply(rows_ND, list(counts), self.rank)  # type: ignore[no-untyped-call]
        return gathered

    def wrap(self, module: nn.Module, apart: set[str]) -> nn.Module:
        """The module with gradients that are averaged over all processes, but for the parameters `apart`."""
        if self.size == 1:
            return module
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, apart)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )


ALONE = World(torch.device("cpu"))
"""One process on the CPU."""


class _Gather(torch.autograd.Function):
    """All-gather of rows; the gradient of a row is what all processes say of it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.counts, ctx.rank = counts, rank
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        start = sum(ctx.counts[: ctx.rank])
        return summed[start : start + ctx.counts[ctx.rank]], None, None
