"""The processes of a run, and what they exchange."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from sae_lens_poly.distributed.selection import highest_of_all


class ProcessMesh:
    """A :class:`~sae_lens_poly.architectures.world.World` of torch.distributed's processes.

    Every process has the same dictionary and its own part of every batch. Sums over processes are
    the only thing exchanged: results are those of one process with the whole batch, up to the order
    in which floating point numbers are added.

    Args:
        device: Where tensors live that are exchanged.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.rank, self.n_data = dist.get_rank(), dist.get_world_size()
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
        return self.reduced(of_part, dist.ReduceOp.SUM)

    def least(self, of_part: torch.Tensor) -> torch.Tensor:
        """The smallest of all processes, entry by entry."""
        return self.reduced(of_part, dist.ReduceOp.MIN)

    def n_tokens(self, of_part: int) -> int:
        """Number of tokens of the batch, for that of a part."""
        return of_part * self.n_data

    def own_rows(self, of_batch: torch.Tensor) -> torch.Tensor:
        """The rows of the part, of a tensor with a row for every token of the batch."""
        return of_batch.chunk(self.n_data)[self.rank]

    def batch_top_k(self, scores: torch.Tensor, k: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of those of the ``k`` highest scores a token that this part holds."""
        return highest_of_all(scores, int(k * self.n_tokens(len(scores))), self)

    # What a run asks for

    def reduced(self, of_part: torch.Tensor, op: Any) -> torch.Tensor:
        """A tensor of every process, reduced to one that all have."""
        result = of_part.detach().clone(memory_format=torch.contiguous_format)
        self.bytes_exchanged += result.numel() * result.element_size()
        dist.all_reduce(result, op)
        return result

    def average_(self, of_part: torch.Tensor) -> None:
        """Replace a tensor by its mean over the processes."""
        self.bytes_exchanged += of_part.numel() * of_part.element_size()
        dist.all_reduce(of_part)
        of_part /= self.n_data

    def gather_rows(self, of_part: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, in their order."""
        parts = [torch.empty_like(of_part) for _ in range(self.n_data)]
        self.bytes_exchanged += of_part.numel() * of_part.element_size()
        dist.all_gather(parts, of_part.contiguous())
        return torch.cat(parts)

    def before(self, number: torch.Tensor) -> torch.Tensor:
        """The sum of a number, of shape (), over the processes in front of this one."""
        numbers = self.gather_rows(number.reshape(1))
        return numbers[: self.rank].sum()

    def most(self, number: int) -> int:
        """The largest of a number of every process."""
        return int(self.reduced(torch.tensor(number, device=self.device), dist.ReduceOp.MAX))

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any of the processes."""
        return bool(self.most(int(flag)))

    def first_text(self, text: str | None) -> str | None:
        """The text of the first process that has one."""
        if not self.any(text is not None):
            return None
        texts: list[str | None] = [None] * self.n_data
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
