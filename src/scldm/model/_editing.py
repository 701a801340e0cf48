"""Cells changed: to noise, and back under other conditions or on the way to another cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scldm.diffusion import SAMPLERS, Sampler, slerp
from scldm.train import Latents

from ._blocks import Stream, blocks, resolved_seed
from ._cells import encoded, selected, without_scores
from ._choices import positive
from ._conditions import Condition
from ._fields import shortened
from ._order import DISTILLED, Guidance, Order, checked_guidance, checked_sampler, is_distilled
from ._provenance import provenance, recorded
from ._request import Request, changed

__all__ = ["EditingMixin", "deterministic"]

_STEPS = 50


class EditingMixin:
    """``invert``, ``counterfactual`` and ``interpolate``."""

    def invert(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
    ) -> np.ndarray:
        """Return the noise that cells would be made of, under their own conditions.

        Parameters
        ----------
        adata
            Registered cells; ``None`` takes the training data.
        indices
            Which of them; ``None`` takes all.
        sampler, steps
            A deterministic rule and its number of steps, 50 by default; the more, the closer is
            what is made of the noise to the cell's latent. Rules of first order need many more.

        Returns
        -------
        ``(n_cells, n_latent + 1)``; the last column belongs to the library size. Standard normal
        over the training cells as far as the model fits them.

        Raises
        ------
        ValueError
            If the sampler adds noise of its own or ``indices`` does not name cells.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        way = deterministic(sampler, steps)
        latents = encoded(self, selected(self, adata, indices))
        return self._noise_of(latents, latents.conditions, *way).numpy()

    @recorded
    def counterfactual(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        seed: int | None = None,
        batch_size: int = 1024,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
        guidance_scale: float | Mapping[str, float] = 1.0,
        **conditions: Any,
    ) -> AnnData:
        """Return cells as they might be under other conditions.

        Each cell is taken to noise under its own conditions and back under the changed ones, so
        that what the conditions do not say about it stays. With ``batch="reference"`` this
        corrects batches, in counts.

        Parameters
        ----------
        adata, indices
            Registered cells, as in :meth:`invert`.
        seed
            Of the draw of counts.
        batch_size
            As in :meth:`generate`.
        sampler, steps
            As in :meth:`invert`.
        guidance_scale
            As in :meth:`generate`, on the way back.
        **conditions
            What to change; all other conditions stay each cell's own, but for gene sets, which are
            left free. One value for all cells, or one for each. Where a perturbation comes without a dose, cells keep theirs if training
            cells of that perturbation have such doses, or else get the one that all of them have.

        Returns
        -------
        Counts of the changed cells in the order of the given ones, under their names; latents in
        ``obsm["X_scldm"]``.

        Raises
        ------
        ValueError
            If a condition is not registered or a value not known, nothing is changed, a dose is
            needed, the sampler adds noise of its own, or ``indices`` does not name cells.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        rule, steps = deterministic(sampler, steps)
        cells = selected(self, adata, indices)
        given = with_doses(self.conditions, cells.frame, conditions, self.training_frame_)
        seed = resolved_seed(seed)
        rng = np.random.default_rng((seed, Stream.REQUEST))
        request = changed(self.conditions, cells.frame, given, self.training_frame_, rng)
        guidance = checked_guidance(self.conditions, request, guidance_scale)
        order = Order(request, seed, rule, steps, guidance)
        latents = without_scores(self, encoded(self, cells))
        noise = self._noise_of(latents, latents.conditions, rule, steps).to(self.device)

        def latents_of(block: int, padded: np.ndarray) -> tuple[Tensor, Tensor]:
            return self._sample_block(order, block, padded, noise[padded])

        new = self._decoded(request.frame, latents_of, order.seed, batch_size)
        new.obs_names = cells.names
        new.uns["scldm"] = {**provenance(), **order.record()}
        return new

    @recorded
    def interpolate(
        self,
        start: AnnData,
        end: AnnData,
        n_points: int = 10,
        *,
        seed: int | None = None,
        batch_size: int = 1024,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
    ) -> AnnData:
        """Return cells on the way from one cell to another, along the sphere of the noise space.

        Conditions that the two share are kept all along. On those in which they differ the cells
        do not depend, and ``obs`` has no value of them, except where the decoder needs one
        (batch, covariates): it takes that of the nearer end.

        Parameters
        ----------
        start, end
            Registered cells, as many of one as of the other, in pairs.
        n_points
            Cells for each pair, both ends included; at least 2.
        seed, batch_size, sampler, steps
            As in :meth:`counterfactual`.

        Returns
        -------
        ``n_points`` cells for each pair, pair by pair; ``obs`` has the names of the two
        (``start``, ``end``) and the position between them (``share``, 0 to 1).

        Raises
        ------
        ValueError
            If numbers of cells differ, ``n_points`` is below 2, or the sampler adds noise of its
            own.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        for name, adata in (("start", start), ("end", end)):
            if not isinstance(adata, AnnData):
                raise TypeError(f"`{name}` is a {type(adata).__name__}, not an AnnData.")
        if start.n_obs != end.n_obs:
            raise ValueError(
                f"`start` has {start.n_obs} cells and `end` {end.n_obs}; they go in pairs."
            )
        if positive("n_points", n_points) < 2:
            raise ValueError("`n_points=1` leaves no room for both ends; give 2 or more.")
        taken = sorted({"start", "end", "share"} & set(start.obs))
        if taken:
            raise ValueError(
                f"`start` has the columns {taken} in `obs`, where the result says which cells it "
                "lies between. Rename them."
            )
        rule, steps = deterministic(sampler, steps)
        ends = [selected(self, adata, None) for adata in (start, end)]
        n = start.n_obs
        both = pd.concat([cells.frame for cells in ends], ignore_index=True)
        shared = {c.name: _shared(c.encode(both), n) for c in self.conditions}
        given = {name: torch.from_numpy(value) for name, value in shared.items()}
        noise = [
            self._noise_of(encoded(self, x), given, rule, steps).to(self.device) for x in ends
        ]
        pair = np.repeat(np.arange(n), n_points)
        share = np.tile(np.linspace(0, 1, n_points), n)
        frame = both.iloc[np.where(share < 0.5, pair, n + pair)].reset_index(drop=True)
        frame = self._without(frame, {name: value[pair] for name, value in shared.items()})
        request = Request(frame, {name: value[pair] for name, value in shared.items()}, {})
        order = Order(request, resolved_seed(seed), rule, steps, Guidance())

        def latents_of(block: int, padded: np.ndarray) -> tuple[Tensor, Tensor]:
            weight = torch.from_numpy(share[padded]).to(noise[0]).unsqueeze(1)
            between = slerp(noise[0][pair[padded]], noise[1][pair[padded]], weight)
            return self._sample_block(order, block, padded, between)

        new = self._decoded(frame, latents_of, order.seed, batch_size)
        new.obs["start"], new.obs["end"] = (cells.names[pair] for cells in ends)
        new.obs["share"] = share
        new.uns["scldm"] = {**provenance(), **order.record()}
        return new

    def _without(self, frame: pd.DataFrame, encoded: Mapping[str, np.ndarray]) -> pd.DataFrame:
        """Return the frame without values that the network is not given and nothing needs."""
        for condition in self.conditions:
            absent = np.isnan(encoded[condition.name]).all(axis=1)
            if not condition.in_decoder:
                for argument in condition.arguments:
                    for column in condition.columns(argument):
                        frame[column] = frame[column].where(~absent)
        return frame

    @torch.inference_mode()
    def _noise_of(
        self, cells: Latents, conditions: Mapping[str, Tensor], rule: Sampler, steps: int | None
    ) -> Tensor:
        """Return the noise of cells under some conditions, ``(n, n_latent + 1)``, on the CPU."""
        parts = []
        for _, rows, padded in blocks(len(cells)):
            block = cells[padded]
            noise = self.module.diffusion.invert(
                block.mean.to(self.device),
                block.log_library.to(self.device),
                {name: value[padded].to(self.device) for name, value in conditions.items()},
                rule,
                steps,
            )
            parts.append(noise[: rows.stop - rows.start].cpu())
        return torch.cat(parts)


def deterministic(
    sampler: str | Sampler, steps: int | None, default: int | None = _STEPS
) -> tuple[Sampler, int | None]:
    """Return a rule that adds no noise and its number of steps.

    Parameters
    ----------
    sampler, steps
        As the user gave them.
    default
        Number of steps where none is given; ``None`` takes the rule's own.

    Raises
    ------
    ValueError
        If the rule adds noise or is not known, or steps are wrong or have no meaning for it.
    """
    known = [name for name, kind in SAMPLERS.items() if kind.deterministic]
    if is_distilled(sampler):
        raise ValueError(f"`sampler={DISTILLED!r}` has no way back to noise. Known: {known}.")
    rule, n_steps = checked_sampler(sampler, steps, 0)
    if not rule.deterministic:
        raise ValueError(
            f"`sampler={sampler!r}` adds noise at every step, which has no way back. Known that "
            f"do not: {known}."
        )
    if steps is None and not rule.chooses_steps and default is not None:
        n_steps = default
    return rule, n_steps


def with_doses(
    conditions: Sequence[Condition],
    own: pd.DataFrame,
    given: Mapping[str, Any],
    training: pd.DataFrame,
) -> dict[str, Any]:
    """Complete a changed perturbation by the doses that go with it.

    Parameters
    ----------
    conditions
        The registered conditions.
    own
        Frame of the cells.
    given
        What to change, by argument.
    training
        Frame of the training cells.

    Raises
    ------
    ValueError
        If cells have a dose that no training cell of the new perturbation has, and those have
        several.
    """
    owner = next((c for c in conditions if c.arguments == ("perturbation", "dose")), None)
    if owner is None or "dose" in given or given.get("perturbation") is None:
        return dict(given)
    wanted = owner.parse("perturbation", given["perturbation"])["perturbation"].astype(str)
    if len(wanted) not in (1, len(own)):
        return dict(given)
    labels = wanted.iloc[np.zeros(len(own), int) if len(wanted) == 1 else np.arange(len(own))]
    dose = own["dose"].to_numpy(copy=True)
    levels = pd.to_numeric(own["dose"], errors="coerce").to_numpy(float)
    for label in pd.unique(labels):
        known = owner.known_doses(label, training)
        numbers = [level for level in known if not isinstance(level, str)] or [np.nan]
        # doses of the members of one combination are not those of another's
        inside = (levels >= min(numbers)) & (levels <= max(numbers))
        odd = (labels == label).to_numpy() & ~(inside | own["dose"].isin(known).to_numpy())
        if odd.any() and len(known) > 1:
            raise ValueError(
                f"`perturbation={label!r}` needs a `dose` too: cells have "
                f"{shortened(pd.unique(dose[odd]))}, training cells of it {shortened(known)}."
            )
        if odd.any() and isinstance(known[0], str):
            dose = dose.astype(object)
        dose[odd] = known[0]
    # doses stand in the order of labels as the frame spells them
    one = not owner.per_cell("perturbation", given["perturbation"])
    return {**given, "perturbation": wanted[0] if one else list(wanted), "dose": dose}


def _shared(encoded: np.ndarray, n: int) -> np.ndarray:
    """Return the encoded condition of n pairs of cells, NaN where the two of a pair differ."""
    first, last = encoded[:n], encoded[n:]
    return np.where((first != last).any(axis=1, keepdims=True), np.float32(np.nan), first)
