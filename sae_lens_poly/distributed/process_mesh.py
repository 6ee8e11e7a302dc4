"""The processes of a run, and what they exchange."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from sae_lens_poly.architectures.sparsifiers.top_k import top_k
from sae_lens_poly.distributed.selection import highest_of_all, highest_of_rows


class ProcessMesh:
    """A :class:`~sae_lens_poly.architectures.world.World` of torch.distributed's processes.

    Every process has its own part of every batch and its own shard of the latents. Sums over
    processes are what is exchanged: results are those of one process with all of both, up to the
    order in which floating point numbers are added.

    Args:
        device: Where tensors live that are exchanged.
        n_shards: How many processes share the latents; it divides the number of processes.
    """

    def __init__(self, device: torch.device | str = "cpu", n_shards: int = 1) -> None:
        self.device, self.n_shards = torch.device(device), n_shards
        self.rank, self.n_processes = dist.get_rank(), dist.get_world_size()
        self.n_data = self.n_processes // n_shards
        mesh = init_device_mesh(
            self.device.type, (self.n_data, n_shards), mesh_dim_names=("data", "latents")
        )
        self.part, self.shard = divmod(self.rank, n_shards)
        self._same_latents, self._same_tokens = mesh.get_group("data"), mesh.get_group("latents")
        self.bytes_exchanged = 0
        """Bytes that this process has put into collective operations so far."""

    def __deepcopy__(self, memo: dict[int, Any]) -> ProcessMesh:
        return self  # the processes are not copied with a dictionary

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    # What parts of a dictionary ask for

    def mean(self, of_part: torch.Tensor) -> torch.Tensor:
        """Mean over the batch of what is the mean over a part of it."""
        return self.sum(of_part) / self.n_data

    def sum(self, of_part: torch.Tensor) -> torch.Tensor:
        """Sum over the batch of what is the sum over a part of it."""
        return self._reduced(of_part, dist.ReduceOp.SUM, self._same_latents)

    def least(self, of_part: torch.Tensor) -> torch.Tensor:
        """The smallest of all processes, entry by entry."""
        return self._reduced(of_part, dist.ReduceOp.MIN)

    def n_tokens(self, of_part: int) -> int:
        """Number of tokens of the batch, for that of a part."""
        return of_part * self.n_data

    def own_rows(self, of_batch: torch.Tensor) -> torch.Tensor:
        """The rows of the part, of a tensor with a row for every token of the batch."""
        return of_batch.chunk(self.n_data)[self.part]

    def across(self, of_shard: torch.Tensor) -> torch.Tensor:
        """Sum over the shards of what is a sum over latents, with gradient."""
        return of_shard if self.n_shards == 1 else _Across.apply(of_shard, self)

    def share(self, loss: torch.Tensor) -> torch.Tensor:
        """A loss that every shard has computed, of which each takes the gradient of its part."""
        return loss if self.n_shards == 1 else _Share.apply(loss, self.n_shards)

    def top_k(self, scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of those of the k highest of each token that this shard holds."""
        return top_k(scores, k) if self.n_shards == 1 else highest_of_rows(scores, k, self)

    def batch_top_k(self, scores: torch.Tensor, k: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of those of the ``k`` highest scores a token that are here."""
        return highest_of_all(scores, int(k * self.n_tokens(len(scores))), self)

    # What a run asks for

    def sum_of_all(self, of_process: torch.Tensor) -> torch.Tensor:
        """Sum over all processes."""
        return self._reduced(of_process, dist.ReduceOp.SUM)

    def sum_of_shards(self, of_shard: torch.Tensor) -> torch.Tensor:
        """Sum over the shards, without gradient."""
        return self._reduced(of_shard, dist.ReduceOp.SUM, self._same_tokens)

    def _reduced(self, of_process: torch.Tensor, op: Any, group: Any = None) -> torch.Tensor:
        result = of_process.detach().clone(memory_format=torch.contiguous_format)
        if group is None or group.size() > 1:
            self._count(result)
            dist.all_reduce(result, op, group)
        return result

    def average_(self, gradient: torch.Tensor, is_sharded: bool) -> None:
        """Replace the gradient of a mean over tokens by that of the batch, in place.

        Args:
            gradient: Of weights of own latents; or of weights that every shard has, of which it is
                a part (see :meth:`share`).
            is_sharded: Which of them.
        """
        group = self._same_latents if is_sharded else None
        if group is None or group.size() > 1:
            self._count(gradient)
            dist.all_reduce(gradient, group=group)
        gradient /= self.n_data

    def gather_rows(self, of_part: torch.Tensor) -> torch.Tensor:
        """The rows of all parts of the batch, in their order."""
        return self._gathered(of_part, self._same_latents, self.n_data)

    def gather_tokens(self, of_process: torch.Tensor) -> torch.Tensor:
        """The rows of all shards: the part of the batch that they step with."""
        return self._gathered(of_process.to(self.device), self._same_tokens, self.n_shards)

    def gather_all(self, of_process: torch.Tensor) -> torch.Tensor:
        """The rows of all processes."""
        return self._gathered(of_process.to(self.device), None, self.n_processes)

    def gather_latents(self, of_shard: torch.Tensor) -> torch.Tensor:
        """The rows of all shards, in the order of the latents."""
        return self._gathered(of_shard, self._same_tokens, self.n_shards)

    def _gathered(self, rows: torch.Tensor, group: Any, n: int) -> torch.Tensor:
        if n == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(n)]
        self._count(rows)
        dist.all_gather(parts, rows.contiguous(), group)
        return torch.cat(parts)

    def before(self, number: torch.Tensor) -> torch.Tensor:
        """The sum of a number, of shape (), over the processes in front of this one."""
        numbers = self._gathered(number.reshape(1), None, self.n_processes)
        return numbers[: self.rank].sum()

    def most(self, number: int) -> int:
        """The largest of a number of every process."""
        return int(self._reduced(torch.tensor(number, device=self.device), dist.ReduceOp.MAX))

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any of the processes."""
        return bool(self.most(int(flag)))

    def first_text(self, text: str | None) -> str | None:
        """The text of the first process that has one."""
        if not self.any(text is not None):
            return None
        texts: list[str | None] = [None] * self.n_processes
        dist.all_gather_object(texts, text)
        return next(found for found in texts if found is not None)

    @torch.no_grad()
    def make_equal_(self, module: torch.nn.Module) -> None:
        """Give all processes the tensors that the first one has."""
        for tensor in (*module.parameters(), *module.buffers()):
            held = tensor.detach().contiguous()
            dist.broadcast(held, 0)
            tensor.copy_(held)

    def wait(self) -> None:
        """Wait until every process is here."""
        self.any(False)

    def _count(self, exchanged: torch.Tensor) -> None:
        self.bytes_exchanged += exchanged.numel() * exchanged.element_size()


class _Across(torch.autograd.Function):
    """Sum over shards.

    Every shard computes what comes after it, and takes one of ``n_shards`` equal shares of the
    loss (:class:`_Share`): the gradient of the whole loss is ``n_shards`` times the one that
    arrives.
    """

    @staticmethod
    def forward(ctx: Any, of_shard: torch.Tensor, mesh: ProcessMesh) -> torch.Tensor:
        ctx.n_shards = mesh.n_shards
        return mesh.sum_of_shards(of_shard)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grads[0] * ctx.n_shards, None


class _Share(torch.autograd.Function):
    """The same number, with one of ``n_shards`` equal shares of its gradient."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, n_shards: int) -> torch.Tensor:
        ctx.n_shards = n_shards
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grads[0] / ctx.n_shards, None
