"""Counts that stay as far from what is expected as those of a control cell are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from scldm.module import carried_counts

from ._blocks import Stream, generator
from ._cells import Cells
from ._perturbation_methods import PerturbationJob
from ._storage import read_rows

__all__ = ["KeptResiduals"]


class KeptResiduals:
    """Draws counts at the quantiles that the counts of control cells have.

    Parameters
    ----------
    model
        The model.
    cells
        The control cells.
    job
        What is done to them.
    """

    def __init__(self, model: Any, cells: Cells, job: PerturbationJob) -> None:
        self.model = model
        self.job = job
        manager = model.get_anndata_manager(cells.adata, required=True)
        self.counts = read_rows(manager.get_from_registry("X"), cells.rows)
        self.inputs = model._decoder_inputs(cells.frame)

    def __call__(self, target: Distribution, block: int, rows: np.ndarray) -> Tensor:
        """Return the counts of one whole block, ``(256, n_genes)``.

        Parameters
        ----------
        target
            What the counts are to be distributed as.
        block, rows
            Its number, and its cells among those to make.
        """
        own = self.job.control(block, rows)
        at = self.job.source[rows]
        inputs = {name: values[at] for name, values in self.inputs.items()}
        z = self.model.module.autoencoder.allowed(own[:, :-1])
        source = self.model._distribution(z, own[:, -1:], inputs)
        x = self.counts[at]
        counts = torch.from_numpy(np.asarray(x.todense() if hasattr(x, "todense") else x))
        draws = generator(own.device, self.job.seed, Stream.COUNTS, block)
        return carried_counts(counts.to(own), source, target, draws)
