"""Cells as they would be under a perturbation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scldm.diffusion import Sampler

from ._blocks import Stream, blocks, resolved_seed
from ._cells import Cells, encoded, selected, without_scores
from ._choices import chosen, flag, positive
from ._doses import Doses
from ._editing import deterministic
from ._fields import shortened
from ._perturbation_methods import (
    PERTURBATION_METHODS,
    LatentsOf,
    PerturbationJob,
    PerturbationMethod,
)
from ._perturbation_training import PerturbationTrainingMixin
from ._perturbations import PerturbationSet
from ._provenance import provenance, recorded
from ._request import Request, changed
from ._residuals import KeptResiduals
from ._shifts import Shifts

__all__ = ["PerturbingMixin"]


_SOURCE_CELL = "source_cell"


class PerturbingMixin(PerturbationTrainingMixin):
    """``predict_perturbation``."""

    @recorded
    def predict_perturbation(
        self,
        adata: AnnData | None = None,
        perturbation: str | Sequence[str] | None = None,
        dose: float | str | Sequence[float | str] | None = None,
        *,
        indices: Sequence[int] | None = None,
        method: str | PerturbationMethod = "flow",
        n_samples: int = 1,
        return_mean: bool = False,
        keep_residuals: bool = False,
        seed: int | None = None,
        batch_size: int = 1024,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
    ) -> AnnData:
        """Return control cells as they would be under a perturbation.

        Parameters
        ----------
        adata
            Registered control cells; ``None`` takes those of the training data.
        perturbation
            A perturbation or combination; one for all cells, or one for each. Combinations of known
            perturbations need not have been seen, nor perturbations with an embedding.
        dose
            Its dose, where doses are registered, or ``"1+10"`` for doses of the members of a
            combination, in the order of its label; needed where training cells have several.
        indices
            Which cells; ``None`` takes all.
        method
            One of ``"flow"``, from the control cell moved by the mean change; ``"conditional"``,
            from noise given the control cell; ``"inversion"``, to noise under the cell's own
            conditions and back under the changed ones; ``"delta"``, the change that is expected
            of its latent; ``"arithmetic"``, the mean change alone. Or an object of
            :class:`scldm.model.PerturbationMethod`.
        n_samples
            Cells to make of each control cell.
        return_mean
            Return expected counts, the mean over samples, in place of drawn ones. Means are for
            point metrics; they have none of the spread of cells.
        keep_residuals
            Whether counts stay at the quantiles of the control cell's, see
            ``scldm.module.carried_counts``, in place of new draws: what latents do not know of a cell
            stays with it, and so does what chance did to it.
        seed, batch_size
            As in :meth:`generate`.
        sampler, steps
            A deterministic rule and its number of steps.

        Returns
        -------
        ``n_samples`` cells for each control cell, or one with ``return_mean``: counts in ``X``,
        latents in ``obsm["X_scldm"]`` and their change in ``obsm["X_scldm_delta"]``, the conditions
        in ``obs``, and the name of the control cell in ``obs["source_cell"]``.

        Raises
        ------
        ValueError
            If no perturbation is registered, it is not known, a dose is given and none is registered,
            cells are not control cells or have a name in common, or a value is not allowed.
        RuntimeError
            If the stage that the method needs is not trained.

        Warns
        -----
        UserWarning
            If a dose lies above those of the training cells.
        """
        condition = self._perturbation_condition()
        way = method
        if not isinstance(way, PerturbationMethod):
            way = chosen("method", method, PERTURBATION_METHODS)
        self._require(way.stage)
        if condition.column == _SOURCE_CELL:
            raise ValueError(f"The column {_SOURCE_CELL!r} of `obs` is needed for the result.")
        n_samples = positive("n_samples", n_samples)
        batch_size = positive("batch_size", batch_size)
        return_mean = flag("return_mean", return_mean)
        if flag("keep_residuals", keep_residuals) and return_mean:
            raise ValueError(
                "`keep_residuals=True` is of drawn counts; `return_mean=True` draws none."
            )
        rule, n_steps = deterministic(sampler, steps, default=None)
        cells = self._control_cells(adata, indices, condition)
        seed = resolved_seed(seed)
        asked = self._perturbed_request(cells, condition, perturbation, dose, seed)
        source = np.repeat(np.arange(len(cells.rows)), n_samples)
        request = Request(
            asked.frame.iloc[source].reset_index(drop=True),
            {name: value[source] for name, value in asked.encoded.items()},
            asked.described,
        )
        known = without_scores(self, encoded(self, cells))
        # inversion takes more steps than sampling unless told otherwise
        n_steps = n_steps if steps is not None or way.stage == "perturbation" else None
        job = PerturbationJob(self, known, source, request, seed, rule, n_steps)
        latents_of = self._fading_to_arithmetic(job, way)
        if return_mean:
            new = self._expected(asked.frame, job, latents_of)
            source = np.arange(len(cells.rows))
            start = job.start.reshape(len(source), n_samples, -1).mean(axis=1)
        else:
            draw = KeptResiduals(self, cells, job) if keep_residuals else None
            parts = self._parts(request.frame, latents_of, seed, batch_size, draw=draw)
            new = self._assembled(request.frame, parts)
            start = job.start
        names = cells.names[source]
        new.obs[_SOURCE_CELL] = names.to_numpy()
        copies = len(source) > len(cells.rows)
        new.obs_names = [f"{x}_{i % n_samples}" if copies else x for i, x in enumerate(names)]
        new.obsm["X_scldm_delta"] = new.obsm["X_scldm"] - start
        new.uns["scldm"] = {
            **provenance(),
            "method": method if isinstance(method, str) else type(method).__name__,
            "seed": seed,
            "n_samples": n_samples,
            "return_mean": return_mean,
            "keep_residuals": keep_residuals,
            "conditions": dict(request.described),
            **way.record(job),
        }
        return new

    def _control_cells(
        self, adata: AnnData | None, indices: Sequence[int] | None, condition: PerturbationSet
    ) -> Cells:
        cells = selected(self, adata, indices)
        if not cells.adata.obs_names[np.unique(cells.rows)].is_unique:
            raise ValueError(
                "`adata` has names of cells that are not unique, and results go by them. Call "
                "`adata.obs_names_make_unique()` first."
            )
        control = (cells.frame["perturbation"].astype(str) == condition.control).to_numpy()
        if adata is None and indices is None and control.any():
            return cells.at(np.flatnonzero(control))
        if not control.all():
            labels = cells.frame["perturbation"].astype(str)[~control]
            named = "adata" if indices is None else "indices"
            raise ValueError(
                f"`{named}` has {len(labels)} cells that are not control cells "
                f"({condition.control!r}) but {shortened(sorted(labels.unique()))}. Give control cells "
                "only."
            )
        return cells

    def _perturbed_request(
        self,
        cells: Cells,
        condition: PerturbationSet,
        perturbation: str | Sequence[str] | None,
        dose: float | str | Sequence[float | str] | None,
        seed: int,
    ) -> Request:
        if perturbation is None:
            known = [label for label in condition.labels if label != condition.control]
            raise ValueError(f"`perturbation` is missing. Known: {shortened(known)}.")
        if dose is not None and condition.dose is None:
            raise ValueError(
                f"`dose={dose!r}` was given, but no dose is registered. Give `dose_key` to "
                "`setup_anndata`, or leave `dose` out."
            )
        given: dict[str, Any] = {"perturbation": perturbation, "dose": dose}
        if condition.dose is None:
            del given["dose"]
        elif dose is None:
            # as the frame spells it, which is what the doses are of
            wanted = condition.parse("perturbation", perturbation)["perturbation"].astype(str)
            doses = self._only_doses(condition, wanted)
            alone = not condition.per_cell("perturbation", perturbation)
            given = {
                "perturbation": wanted[0] if alone else list(wanted),
                "dose": doses[0] if alone else doses,
            }
        rng = np.random.default_rng((seed, Stream.REQUEST))
        return changed(self.conditions, cells.frame, given, self.training_frame_, rng)

    def _only_doses(self, condition: PerturbationSet, wanted: pd.Series) -> list[float | str]:
        """Return the only doses that training cells of these perturbations have."""
        only = {}
        for label in wanted.unique():
            known = condition.known_doses(label, self.training_frame_)
            if len(known) > 1 and label != condition.control:
                raise ValueError(
                    f"`perturbation={label!r}` needs a `dose` too: training cells of it have "
                    f"{shortened(known)}."
                )
            only[label] = known[0]
        return [only[label] for label in wanted]

    def _fading_to_arithmetic(self, job: PerturbationJob, way: PerturbationMethod) -> LatentsOf:
        """Return latents by a method, and by latent arithmetic where there is nothing to learn from.

        No network has learned to do nothing, as the control does, nor what ever lower doses do.
        """
        inner = way.prepare(job)
        share = np.ones(len(job.request.frame))
        if way.stage == "perturbation":
            share = self._by_perturbation(job.request.frame, Shifts.known_share, 1)[:, 0]

        def latents_of(block: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
            z, log_library = inner(block, rows)
            if (share[rows] < 1).any():
                own = torch.from_numpy(share[rows]).to(z).unsqueeze(1)
                plain, plain_library = job.moved(job.control(block, rows), rows)
                z = plain + own * (z - plain)
                log_library = plain_library + own * (log_library - plain_library)
            return self.module.autoencoder.allowed(z), log_library

        return latents_of

    def _changes(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the mean change of each cell, ``(n, n_latent + 1)``."""
        return self._by_perturbation(frame, Shifts.at, self.module.diffusion.n_latent + 1)

    def _by_perturbation(
        self, frame: pd.DataFrame, what: Callable[[Shifts, str, Doses], Any], size: int
    ) -> np.ndarray:
        """Return what shifts say of each cell's perturbation and dose, ``(n, size)``."""
        shifts = Shifts.from_plain(self._perturbation_condition(), self.shifts_)
        labels = frame["perturbation"].astype(str)
        # one NaN is not another, but itself
        doses = frame["dose"] if "dose" in frame else [np.nan] * len(frame)
        pairs = list(zip(labels, doses, strict=True))
        found = {
            (label, dose): what(shifts, *shifts.perturbation.keyed(label, dose))
            for label, dose in dict.fromkeys(pairs)
        }
        return np.reshape([found[pair] for pair in pairs], (len(frame), size))

    def _expected(
        self, frame: pd.DataFrame, job: PerturbationJob, latents_of: LatentsOf
    ) -> AnnData:
        """Return expected counts, latents and library sizes, means over the samples of each cell."""
        n, n_samples = len(frame), len(job.source) // len(frame)
        counts = np.zeros((n, len(self.var_names)), dtype=np.float32)
        latents = np.zeros((n, job.cells.mean.shape[1]), dtype=np.float32)
        library_sizes = np.zeros(n, dtype=np.float32)
        inputs = self._decoder_inputs(job.request.frame)
        for block, rows, padded in blocks(len(job.source)):
            z, log_library = latents_of(block, padded)
            cut = {name: values[padded] for name, values in inputs.items()}
            mean = self._distribution(z, log_library, cut).mean
            own, at = slice(rows.stop - rows.start), job.source[rows]
            np.add.at(counts, at, mean[own].cpu().numpy() / n_samples)
            np.add.at(latents, at, z[own].cpu().numpy() / n_samples)
            np.add.at(library_sizes, at, log_library[own, 0].exp().cpu().numpy() / n_samples)
        return self._as_anndata(frame, counts, latents, library_sizes)
