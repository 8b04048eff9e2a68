"""Which process of a distributed training this is."""

from __future__ import annotations

import torch.distributed

from augment.errors import RequestError


def own_rank(rank: int | None, num_replicas: int | None) -> tuple[int, int]:
    """Give rank and number of ranks: as named, else those of the initialised process group, else 0 of 1.

    Raises
    ------
    RequestError
        If there is no such rank, or only one of the two was named.
    """
    if (rank is None) != (num_replicas is None):
        raise RequestError(f"rank {rank}, num_replicas {num_replicas}: expected both or neither")
    if rank is None or num_replicas is None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return 0, 1
        rank, num_replicas = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if not 0 <= rank < num_replicas:
        raise RequestError(f"rank {rank}: expected 0 to {num_replicas - 1}")
    return rank, num_replicas
