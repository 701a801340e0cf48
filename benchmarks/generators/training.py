"""What the rivals with networks of their own share: minibatches, layers, codes, normalisation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from scldm.nn import CategoryEmbedder, ConditionEmbedder

__all__ = [
    "Codes",
    "batches",
    "by_seconds",
    "by_steps",
    "counts_from_expression",
    "counts_of",
    "layers",
    "log_normalised",
    "optimise",
]

TARGET_SUM = 1e4
BLOCK = 1024


def counts_of(cells: ad.AnnData) -> Tensor:
    """Return the counts as a dense tensor."""
    return torch.from_numpy(cells.X.toarray()).float()


def log_normalised(counts: Tensor) -> Tensor:
    """Scale cells to a total of 10,000 and take log(1 + x)."""
    return torch.log1p(TARGET_SUM * counts / counts.sum(1, keepdim=True))


def counts_from_expression(expression: Tensor, library: Tensor) -> sparse.csr_matrix:
    """Undo the normalisation, scale to library sizes ``(n, 1)`` and round to whole counts.

    What users of models of log-normalised expression do to get counts. Generated expression does
    not sum to 10,000 by itself, and cells whose depth is wrong by that would lose on every count.
    """
    scaled = torch.expm1(expression.clamp_min(0))
    share = scaled / scaled.sum(1, keepdim=True).clamp_min(1.0)
    return sparse.csr_matrix((share * library).round().numpy())


def layers(
    sizes: list[int], norm: Callable[[int], nn.Module], activation: type[nn.Module]
) -> nn.Sequential:
    """Return linear layers with a norm and an activation between them."""
    modules: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-2], sizes[1:-1], strict=True):
        modules += [nn.Linear(n_in, n_out), norm(n_out), activation()]
    return nn.Sequential(*modules, nn.Linear(sizes[-2], sizes[-1]))


class Codes:
    """Conditions as the codes that :mod:`scldm.nn` embeds.

    Parameters
    ----------
    obs
        Conditions of the training cells, each a category.
    """

    def __init__(self, obs: pd.DataFrame) -> None:
        self.known = {name: pd.Index(sorted(set(obs[name].astype(str)))) for name in obs}

    def __call__(self, obs: pd.DataFrame) -> dict[str, Tensor]:
        """Return the codes of each condition, ``(n, 1)``."""
        return {
            name: torch.from_numpy(known.get_indexer(obs[name].astype(str))).float().unsqueeze(1)
            for name, known in self.known.items()
        }

    def embedder(self, width: int, **others: nn.Module) -> ConditionEmbedder:
        """Return the embedder of all conditions and of those given."""
        own = {name: CategoryEmbedder(len(known), width) for name, known in self.known.items()}
        return ConditionEmbedder({**own, **others}, width)


def by_steps(steps: int) -> Iterator[float]:
    """Yield the share of training that is done, for a number of steps."""
    for step in range(steps):
        yield step / steps


def by_seconds(seconds: float) -> Iterator[float]:
    """Yield the share of training that is done, for a time of the processor."""
    start = time.process_time()
    while (share := (time.process_time() - start) / seconds) < 1:
        yield share


def optimise(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    n_cells: int,
    progress: Iterable[float],
    *,
    lr: float,
    weight_decay: float,
    batch_size: int,
    decay: bool = True,
    after_step: Callable[[], None] | None = None,
) -> int:
    """Minimise a loss over random minibatches and return the number of steps.

    Parameters
    ----------
    parameters
        What is trained.
    loss
        Mean loss of the cells at the rows given.
    n_cells
        Number of cells to draw minibatches from.
    progress
        One of :func:`by_steps` and :func:`by_seconds`.
    lr, weight_decay
        Of AdamW.
    batch_size
        Cells in a minibatch.
    decay
        Whether the rate warms up over the first twentieth and falls to zero as a cosine.
    after_step
        Called after each step.
    """
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    steps = 0
    for share in progress:
        if decay:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, 0.05 + 20 * share) * math.cos(math.pi * share / 2) ** 2
        optimizer.zero_grad()
        loss(torch.randint(n_cells, (min(batch_size, n_cells),))).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if after_step is not None:
            after_step()
        steps += 1
    return steps


def batches(n: int) -> Iterator[np.ndarray]:
    """Yield the rows of blocks that fit in memory as dense counts."""
    for start in range(0, n, BLOCK):
        yield np.arange(start, min(start + BLOCK, n))
