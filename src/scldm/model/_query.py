"""A trained model taken to new cells, with categories that it has not seen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from pandas.api.types import union_categoricals
from scipy import sparse
from scvi.model._utils import parse_device_args
from torch import Tensor, nn

from scldm.train import HoldWeights, Latents, Rehearsal

from ._fields import shortened
from ._files import MODEL_FILE
from ._order import Order, checked_guidance, checked_sampler
from ._plain import from_plain
from ._query_genes import genes_of, with_genes
from ._recipe import MOVING_KEYS, Recipe
from ._registered import conditions_from_registry
from ._request import complete
from ._training import TrainingMixin
from ._transplant import enlarged

__all__ = ["PARTS", "QueryMixin"]

PARTS = ("encoder", "decoder", "denoiser", "conditions")
"""Parts of a model that can be frozen."""

_ENCODER = ("z_encoder", "l_encoder", "quantiser")

_KEPT = (
    "training_frame_",
    "autoencoder_trained_",
    "diffusion_trained_",
    "perturbation_trained_",
    "trajectory_trained_",
    "spatial_trained_",
    "is_trained_",
    "shifts_",
    "trajectory_",
    "spatial_",
    "var_",
)
"""What a query has from its reference beside the weights."""

_TRAINED = tuple(name for name in _KEPT if name.endswith("_trained_") and name != "is_trained_")

_MOST_REHEARSED = 2000

_DISPERSION_LR = 1e-3
"""Dispersions have travelled far already and start near where they belong."""

_SEED = 0
"""Of the cells that are rehearsed."""


class QueryMixin(TrainingMixin):
    """``load_query_data`` and ``prepare_query_anndata``."""

    query_: Any = None
    """What is frozen and what is new in a model that :meth:`load_query_data` made, and the cells that its
    reference draws conditions from."""

    _rehearsal: Rehearsal | None = None

    @property
    def recipe(self) -> Recipe:
        """Settings that depend on how many cells there are to learn from."""
        n_cells = self.summary_stats["n_cells"]
        if self.query_ is not None:
            return Recipe.for_query(n_cells)
        setup = self.registry_["setup_args"]
        return Recipe.for_cells(n_cells, any(setup[key] is not None for key in MOVING_KEYS))

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: Self | str | os.PathLike,
        *,
        frozen: Iterable[str] = ("encoder",),
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Take a trained model to new cells: new batches, cell types or other categories.

        Old categories keep their codes, their weights and what they mean: until it is trained, the
        query makes the very cells of the reference. New ones begin at what the networks know of a
        category that is not given, or at the mean of the old ones. :meth:`train` then learns from the
        new cells and, so that the old ones are not forgotten, from as many that the reference makes;
        the reference's cells are not needed. Standardisations and statistics of normalisation layers
        stay those of the reference, and so do the later stages (perturbation, trajectory, space)
        unless they are trained by name.

        Parameters
        ----------
        adata
            Cells with the columns that the reference was set up with, which need not be set up, and
            exactly its genes, see :meth:`prepare_query_anndata`.
        reference_model
            The model, or the folder that it was saved to; both stages trained. It does not change.
        frozen
            Parts that training leaves as they are, bit by bit: ``"encoder"``, ``"decoder"``,
            ``"denoiser"`` and ``"conditions"``, the embeddings of old categories. What is new in a
            frozen part is trained in any case. A frozen encoder keeps the latent space; with all four,
            old categories keep their very cells.
        accelerator, device
            Where to put the model.

        Returns
        -------
        A model with ``adata`` registered. A student of :meth:`distill` is not taken along.

        Raises
        ------
        TypeError
            If ``reference_model`` is neither a model of this class nor a path.
        ValueError
            If a part is not known, genes differ, data do not fit, or nothing is left to train.
        RuntimeError
            If a stage of the reference is not trained.

        References
        ----------
        Lotfollahi et al. (2022), Nature Biotechnology 40:121 (scArches: weights for new batches in a
        trained model); Shin et al. (2017), NeurIPS (generative replay).

        Examples
        --------
        >>> cells = scldm.SCLDM.prepare_query_anndata(cells, "model/")
        >>> query = scldm.SCLDM.load_query_data(cells, "model/")
        >>> query.train()
        >>> new = query.generate(1000, batch="new", seed=0)
        """
        _, _, torch_device = parse_device_args(
            accelerator, device, return_device="torch", validate_single_device=True
        )
        parts = _checked_parts(frozen)
        attributes, state = cls._taken_apart(reference_model)
        _require_both_stages(attributes)
        registry = attributes["registry_"]
        _check_genes(adata, genes_of(registry))
        setup = getattr(cls, registry["setup_method_name"])
        setup(adata, source_registry=registry, extend_categories=True, **registry["setup_args"])
        model = cls._built_as(attributes, adata)
        vars(model).update({name: attributes[name] for name in _KEPT})
        types_in_decoder = model.module.autoencoder.dispersion == "gene-label"
        before = conditions_from_registry(registry, types_in_decoder)
        state, new = enlarged(
            _begun(state), model.module, (before, model.conditions), (registry, model.registry_)
        )
        model.module.load_state_dict(state)
        parameters = {name for name, _ in model.module.named_parameters() if _part_of(name)}
        model.query_ = {
            "frozen": parts,
            "new": {name: n._asdict() for name, n in new.items() if name in parameters},
            "frame": model.training_frame_,
        }
        if not any(model._trains(stage) for stage in model._stages()):
            raise ValueError(
                f"`frozen={parts}` leaves nothing to train: `adata` has no new categories."
            )
        model.to_device(torch_device)
        model.module.eval()
        return model

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: Self | str | os.PathLike,
        return_reference_var_names: bool = False,
    ) -> AnnData | pd.Index:
        """Return cells with exactly the genes of a model, in its order.

        Parameters
        ----------
        adata
            Cells; they do not change.
        reference_model
            A model, or the folder that it was saved to.
        return_reference_var_names
            Whether to return the names of the model's genes instead.

        Returns
        -------
        New data without genes that the model does not know, and with zeros for those that ``adata``
        lacks. Training takes these zeros for counts, and library sizes miss those genes' counts.

        Raises
        ------
        ValueError
            If names of genes are not unique, or none is the model's.

        Warns
        -----
        UserWarning
            If genes are missing; it says how many.
        """
        attributes, _ = cls._taken_apart(reference_model)
        genes = genes_of(attributes["registry_"])
        return genes if return_reference_var_names else with_genes(adata, genes)

    @classmethod
    def _taken_apart(
        cls, reference: Self | str | os.PathLike
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return attributes and state of a model, or of a saved one."""
        if isinstance(reference, str | os.PathLike):
            path = Path(reference).expanduser() / MODEL_FILE
            if not path.is_file():
                raise FileNotFoundError(
                    f"`reference_model={str(reference)!r}`: there is no saved model at {str(path)!r}."
                )
            return cls._from_file(path)
        if not isinstance(reference, cls):
            raise TypeError(
                f"`reference_model` is a {type(reference).__name__}, not a {cls.__name__} or the "
                "folder of a saved one."
            )
        content = cast(Any, reference)._to_file()
        state = {name: x.detach().cpu().clone() for name, x in content["model_state_dict"].items()}
        return from_plain(content["attr_dict"]), state

    @wraps(TrainingMixin.train_autoencoder)
    def train_autoencoder(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        if self.query_ is None:
            super().train_autoencoder(*args, **kwargs)
        elif self._trains(self.module.autoencoder):
            trained = {name: getattr(self, name) for name in _TRAINED}
            with self._learning(kwargs, dispersion_lr=_DISPERSION_LR):
                super().train_autoencoder(*args, **kwargs)
            if "encoder" in self.query_["frozen"]:
                # latents are what they were, and what was learned on them holds
                vars(self).update(trained)

    @wraps(TrainingMixin.train_diffusion)
    def train_diffusion(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        if self.query_ is None:
            super().train_diffusion(*args, **kwargs)
        elif self._trains(self.module.diffusion.trained):
            with self._learning(kwargs):
                super().train_diffusion(*args, **kwargs)

    @contextmanager
    def _learning(self, kwargs: dict[str, Any], **settled: Any) -> Iterator[None]:
        """Rehearse what the model makes of old conditions, and go on drawing them afterwards."""
        self._adata_manager_or_raise()
        if self._rehearsal is None:
            self._rehearsal = self._rehearse()
        given = kwargs.get("plan_kwargs") or {}
        kwargs["plan_kwargs"] = {"rehearsal": self._rehearsal, **settled, **given}
        self.module.diffusion.keeps_scale = True
        try:
            yield
        finally:
            own = self._read_conditions(self.adata)
            self.training_frame_ = _stacked(own, self.query_["frame"])

    def _run_stage(self, stage: str, plan: Any, *args: Any, **kwargs: Any) -> None:
        if self.query_ is not None:
            given = kwargs.pop("callbacks", None) or []
            given = [given] if isinstance(given, Callback) else given
            resting = self.module.autoencoder, self.module.diffusion.trained
            kwargs["callbacks"] = [HoldWeights(self._held(), resting), *given]
        super()._run_stage(stage, plan, *args, **kwargs)

    def _can_learn_perturbations(self) -> bool:
        return self.query_ is None and super()._can_learn_perturbations()  # type: ignore[misc]

    def _can_learn_trajectories(self) -> bool:
        return self.query_ is None and super()._can_learn_trajectories()  # type: ignore[misc]

    def _can_learn_space(self) -> bool:
        return self.query_ is None and super()._can_learn_space()  # type: ignore[misc]

    def _rehearse(self) -> Rehearsal:
        """Make cells as the reference's were, given their conditions."""
        frame = self.query_["frame"]
        n_cells, rng = min(len(frame), _MOST_REHEARSED), np.random.default_rng(_SEED)
        request = complete(self.conditions, {}, n_cells, frame, rng)
        rule, steps = checked_sampler("dpm_solver", None, 0)
        guidance = checked_guidance(self.conditions, request, 1.0, (0.0, 1.0), 0.0)
        order = Order(request, _SEED, rule, steps, guidance)
        parts = self._parts(request.frame, partial(self._sample_block, order), _SEED, 1024)
        counts, z, sizes = zip(*parts, strict=True)
        mean = torch.from_numpy(np.concatenate(z))
        latents = Latents(
            mean,
            torch.zeros_like(mean),
            torch.from_numpy(np.concatenate(sizes)).log().unsqueeze(1),
            {name: torch.from_numpy(values) for name, values in request.encoded.items()},
        )
        inputs = self._decoder_inputs(request.frame)
        return Rehearsal(latents, sparse.vstack(counts, format="csr"), inputs)

    def _stages(self) -> tuple[nn.Module, nn.Module]:
        return self.module.autoencoder, self.module.diffusion.trained

    def _trains(self, stage: nn.Module) -> bool:
        """Say whether there is anything in a stage that is not held."""
        held = self._held()
        return any(held.get(parameter, parameter) is not None for parameter in stage.parameters())

    def _held(self) -> dict[nn.Parameter, Tensor | None]:
        """Return the parameters of frozen parts, and where those are held that have new entries."""
        held: dict[nn.Parameter, Tensor | None] = {}
        for name, parameter in self.module.named_parameters():
            if _part_of(name) in self.query_["frozen"]:
                new = self.query_["new"].get(name)
                held[parameter] = None if new is None else _all_but(parameter, **new)
        return held


def _all_but(parameter: Tensor, dim: int, at: list[int]) -> Tensor:
    """Return a mask that is false at some entries of a dimension."""
    mask = torch.ones_like(parameter, dtype=torch.bool)
    return mask.index_fill_(dim, torch.as_tensor(at, device=mask.device), False)


def _part_of(name: str) -> str | None:
    """Return which part a parameter belongs to, ``None`` for those of later stages."""
    stage, second, *_ = name.split(".")
    if stage == "autoencoder":
        return "encoder" if second in _ENCODER else "decoder"
    if (stage, second) == ("diffusion", "trained"):
        return "conditions" if ".conditions." in name else "denoiser"
    return None


def _begun(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state in which training begins at the averaged weights, and a new average."""
    averaged, trained = "diffusion.averaged.", "diffusion.trained."
    state = {name: x for name, x in state.items() if not name.startswith("diffusion.student.")}
    own = {
        trained + n.removeprefix(averaged): x for n, x in state.items() if n.startswith(averaged)
    }
    return {**state, **own, "diffusion.n_averaged": torch.zeros((), dtype=torch.long)}


def _stacked(above: pd.DataFrame, below: pd.DataFrame) -> pd.DataFrame:
    """Return one frame of conditions under the other, with the categories of both."""
    whole = pd.concat([above, below], ignore_index=True)
    for name in above.select_dtypes("category"):
        known = union_categoricals([pd.Categorical(above[name]), pd.Categorical(below[name])])
        whole[name] = known
    return whole


def _checked_parts(frozen: Iterable[str]) -> list[str]:
    parts = [frozen] if isinstance(frozen, str) else list(frozen)
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"`frozen` has {part!r}, which is no part. Known: {list(PARTS)}.")
    return parts


def _require_both_stages(attributes: dict[str, Any]) -> None:
    for stage in ("autoencoder", "diffusion"):
        if not attributes[f"{stage}_trained_"]:
            raise RuntimeError(f"The {stage} of `reference_model` is not trained.")


def _check_genes(adata: AnnData, genes: pd.Index) -> None:
    if not isinstance(adata, AnnData):
        raise TypeError(f"`adata` is a {type(adata).__name__}, not an AnnData.")
    if not adata.var_names.equals(genes):
        raise ValueError(
            "`adata` does not have exactly the genes of the model, in its order: those are "
            f"{shortened(genes, 5)}. Give what `prepare_query_anndata(adata, reference_model)` "
            "returns."
        )
