"""scldm, with its defaults or with options."""

from __future__ import annotations

import time

import anndata as ad
import pandas as pd
import scvi
from scipy import sparse

import scldm

from .base import Generator, Method

__all__ = ["Ours"]


class Ours(Generator):
    """The package that is benchmarked here.

    Parameters
    ----------
    name
        Name of the row.
    fine_tuned
        Whether both stages are trained on together at the end.
    **options
        Arguments of :class:`scldm.SCLDM`.
    """

    def __init__(
        self, name: str = "scldm", *, fine_tuned: bool = False, **options: object
    ) -> None:
        self.methods = {name: Method(Ours.draw)}
        self.fine_tuned = fine_tuned
        self.options = options

    def fit(self, train: ad.AnnData, seed: int, reference: float) -> None:
        scvi.settings.seed = seed
        data = train.copy()
        scldm.SCLDM.setup_anndata(data, **{f"{name}_key": name for name in data.obs})
        self.model = scldm.SCLDM(data, **self.options)
        times = [time.process_time()]
        for stage in (self.model.train_autoencoder, self.model.train_diffusion):
            stage(enable_progress_bar=False)
            times.append(time.process_time())
        self.stage_2_to_stage_1 = (times[2] - times[1]) / (times[1] - times[0])
        if self.fine_tuned:
            self.model.fine_tune(enable_progress_bar=False)

    def draw(self, obs: pd.DataFrame, seed: int) -> sparse.csr_matrix:
        """Generate cells under conditions."""
        return self.model.generate(**self._given(obs), seed=seed).X

    def measure(self, obs: pd.DataFrame, seed: int) -> dict[str, float]:
        times = [time.process_time()]
        self.model.generate(**self._given(obs), seed=seed)
        times.append(time.process_time())
        z, what = self.model.sample_latent(**self._given(obs), seed=seed)
        times.append(time.process_time())
        self.model.decode(z, seed=seed, **what)
        times.append(time.process_time())
        return {
            "stage_2_to_stage_1": self.stage_2_to_stage_1,
            "generate_to_decode": (times[1] - times[0]) / (times[3] - times[2]),
        }

    @staticmethod
    def _given(obs: pd.DataFrame) -> dict[str, list[str]]:
        return {name: obs[name].tolist() for name in obs}
