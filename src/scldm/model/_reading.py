r"""What a model has learned: genes behind latents, conditions behind latents, and attention.

Gene loadings are the decoder's Jacobian, mean over cells,

.. math:: J_{gk} = s_k \, \frac{\partial \log E[x_g | z, l]}{\partial z_k},

with :math:`s_k` the standard deviation of latent k, by forward-mode differentiation (Baydin et al.
2018, *Automatic differentiation in machine learning: a survey*, section 3.1). Near a cell, a step
of one standard deviation along latent k multiplies the mean of gene g by :math:`e^{J_{gk}}`.

The effect of a condition is how it moves the mean of the latents that the diffusion makes,
:math:`E[x_0 | c] - E[x_0]`, estimated from the same draws of noise on both sides. The denoiser's
estimate at pure noise would be the same number in one call, but it is off by as much as a fifth of
a standard deviation, as nothing corrects it, and it is not defined where the network predicts
noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scldm.diffusion import Heun
from scldm.module import CountAutoencoder
from scldm.train import Latents

from ._blocks import BLOCK_SIZE, Stream, generator, resolved_seed
from ._cells import Cells, encoded, selected
from ._choices import positive
from ._fields import shortened

__all__ = ["ReadingMixin"]

_STEPS = 10


class ReadingMixin:
    """``get_gene_loadings``, ``get_condition_effects`` and ``get_attention``."""

    def get_gene_loadings(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        groupby: str | None = None,
        n_cells: int = 500,
    ) -> pd.DataFrame:
        """Say which genes each latent moves.

        Parameters
        ----------
        adata
            Registered cells; ``None`` takes the training data.
        indices
            Which of them; ``None`` takes all.
        groupby
            Column of ``obs`` with groups to tell apart; cells without a value are left out.
        n_cells
            The most cells to take the mean over, of each group. Where there are more, some are
            drawn, always the same.

        Returns
        -------
        A row for each ``group`` (a column only where asked for), ``gene`` and ``latent`` (``"z0"``
        and so on, the columns of the latent representation): the ``loading`` is the change of the
        log mean for a step of one standard deviation of the latent.

        Raises
        ------
        ValueError
            If ``indices`` does not name cells or ``groupby`` is not a column.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        cells, groups = _grouped(selected(self, adata, indices), groupby, n_cells)
        means = _group_means(self._jacobians(cells), groups)
        scale = self.module.diffusion.scale[:-1].cpu().numpy()
        means *= scale[:, None]
        axes = {"group": groups.categories, "latent": _latent_names(len(scale))}
        frame = _tidy(means, {**axes, "gene": self.var_names}, "loading")
        columns = ["group", "gene", "latent", "loading"]
        return frame[columns if groupby is not None else columns[1:]]

    def _jacobians(self, cells: Cells) -> Iterator[Tensor]:
        """Yield the derivatives of log means by latents of blocks of cells."""
        decoder = self._decoder_inputs(cells.frame)
        for rows, block in _blocks_of(encoded(self, cells)):
            inputs = {name: value[rows].to(self.device) for name, value in decoder.items()}
            z, log_library = block.mean.to(self.device), block.log_library.to(self.device)
            yield _jacobian(self.module.autoencoder, z, log_library, inputs)

    def get_condition_effects(self, n_draws: int = 512, *, seed: int | None = 0) -> pd.DataFrame:
        """Say which conditions move which latents.

        Each value is given alone, all other conditions being dropped, and compared with no
        condition at all. Categories and members of perturbations are taken as they are, the
        latter at their mean dose; numbers, coordinates, vectors and scores one standard deviation
        below and above their mean.

        Parameters
        ----------
        n_draws
            Draws to estimate each mean from, the same noise for all values. With 512 the standard
            error is a few hundredths at most.
        seed
            Of the noise.

        Returns
        -------
        A row for each ``condition``, ``value`` and ``latent`` (``"z0"`` and so on, and
        ``"library_size"`` for its log): the ``effect`` in standard deviations of the latent.

        Raises
        ------
        ValueError
            If the model has no conditions.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        n_draws = positive("n_draws", n_draws)
        if not self.conditions:
            raise ValueError("The model has no conditions. Registered: [].")
        self.module.eval()
        diffusion = self.module.diffusion
        source = generator(self.device, resolved_seed(seed), Stream.LATENT, 0)
        shape = (n_draws, diffusion.n_latent + 1)
        noise = torch.randn(shape, generator=source, device=self.device)
        first = self.training_frame_.iloc[:1]
        nothing = {c.name: np.full_like(c.encode(first), np.nan) for c in self.conditions}

        def mean(given: dict[str, np.ndarray]) -> np.ndarray:
            on_device = {
                name: torch.from_numpy(value).to(self.device).expand(n_draws, -1)
                for name, value in {**nothing, **given}.items()
            }
            x_0 = Heun().sample(diffusion.averaged, noise, _STEPS, on_device)
            return x_0.double().mean(0).cpu().numpy()

        base = mean({})
        names = [*_latent_names(diffusion.n_latent), "library_size"]
        frames = []
        for condition in self.conditions:
            labels, frame = condition.examples(self.training_frame_)
            values = condition.encode(frame)
            effects = [mean({condition.name: values[[i]]}) - base for i in range(len(values))]
            axes = {"value": labels, "latent": names}
            frames.append(_tidy(np.array(effects), axes, "effect"))
            frames[-1].insert(0, "condition", condition.name)
        return pd.concat(frames, ignore_index=True)

    def get_attention(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        groupby: str | None = None,
        t: float = 0.5,
        *,
        n_cells: int = 2000,
        seed: int | None = 0,
    ) -> pd.DataFrame:
        """Say how much each block of the denoiser attends to each condition.

        Parameters
        ----------
        adata, indices, groupby, n_cells
            As in :meth:`get_gene_loadings`.
        t
            Time of the diffusion to look at, from 0 (data) to 1 (noise).
        seed
            Of the noise that cells get.

        Returns
        -------
        A row for each ``group`` (a column only where asked for), ``block`` and ``token``, with the
        mean ``weight`` over cells; the weights of a block sum to one. A condition is one token; a
        combination of perturbations has one for each member, by its place, and gene sets one each.

        Raises
        ------
        ValueError
            If the model does not have ``conditioning="cross_attention"`` and conditions, ``t`` is
            out of range, ``indices`` does not name cells or ``groupby`` is not a column.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        if isinstance(t, bool) or not isinstance(t, int | float) or not 0 <= t <= 1:
            raise ValueError(f"`t={t!r}` must be a number from 0 (data) to 1 (noise).")
        network = self.module.diffusion.averaged.network
        if network.conditioning != "cross_attention" or not self.conditions:
            raise ValueError(
                "`get_attention` needs conditions and `conditioning='cross_attention'`; the model "
                f"has conditions {shortened(c.name for c in self.conditions)} and "
                f"`conditioning={network.conditioning!r}`."
            )
        seed = resolved_seed(seed)
        cells, groups = _grouped(selected(self, adata, indices), groupby, n_cells)
        latents = encoded(self, cells)
        means = _group_means(self._attention_of(latents, float(t), seed), groups)
        tokens = network.conditions.token_names(latents.conditions)
        axes = {"group": groups.categories, "block": range(means.shape[1]), "token": tokens}
        frame = _tidy(means, axes, "weight")
        return frame if groupby is not None else frame.drop(columns="group")

    def _attention_of(self, latents: Latents, t: float, seed: int) -> Iterator[Tensor]:
        """Yield the weights of tokens, ``(n, n_blocks, n_tokens)``, of blocks of cells."""
        diffusion = self.module.diffusion
        time = torch.tensor(t, dtype=torch.float64, device=self.device)
        for number, (rows, block) in enumerate(_blocks_of(latents)):
            z, log_library = block.mean.to(self.device), block.log_library.to(self.device)
            conditions = {k: value.to(self.device) for k, value in block.conditions.items()}
            x_0 = diffusion.standardise(z, log_library)
            source = generator(self.device, seed, Stream.LATENT, number)
            noise = torch.randn(BLOCK_SIZE, x_0.shape[1], generator=source, device=self.device)
            alpha, sigma = diffusion.averaged.scales(time, x_0)
            # as the denoiser scales what its network sees
            x_t = (alpha * x_0 + sigma * noise[: len(rows)]) / torch.hypot(alpha, sigma)
            times = time.to(x_t).expand(len(rows))
            yield diffusion.averaged.network.attention(x_t, times, conditions)


def _grouped(cells: Cells, groupby: str | None, n_cells: int) -> tuple[Cells, pd.Categorical]:
    """Return at most ``n_cells`` cells of each group, and their groups."""
    n_cells = positive("n_cells", n_cells)
    groups = cells.groups(groupby)
    rng = np.random.default_rng(0)
    kept = []
    for code in range(len(groups.categories)):
        members = np.flatnonzero(groups.codes == code)
        drawn = len(members) > n_cells
        kept.append(rng.choice(members, n_cells, replace=False) if drawn else members)
    rows = np.sort(np.concatenate(kept))
    return cells.at(rows), groups[rows]


def _blocks_of(latents: Latents) -> Iterator[tuple[np.ndarray, Latents]]:
    for start in range(0, len(latents), BLOCK_SIZE):
        rows = np.arange(start, min(start + BLOCK_SIZE, len(latents)))
        yield rows, latents[rows]


def _group_means(parts: Iterable[Tensor], groups: pd.Categorical) -> np.ndarray:
    """Return the means over the cells of each group of ``(n, a, b)`` in parts, ``(g, a, b)``."""
    codes = groups.codes.astype(int)
    sums, start = [], 0
    for part in parts:
        own = torch.from_numpy(codes[start : start + len(part)]).to(part.device)
        zeros = part.new_zeros(len(groups.categories), *part.shape[1:], dtype=torch.float64)
        sums.append(zeros.index_add(0, own, part.double()).cpu())
        start += len(part)
    sizes = np.bincount(codes, minlength=len(groups.categories))
    return torch.stack(sums).sum(0).numpy() / sizes[:, None, None]


@torch.no_grad()
def _jacobian(
    autoencoder: CountAutoencoder, z: Tensor, log_library: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    """Return the derivatives of log means by latents, ``(n, n_latent, n_genes)``."""

    def log_mean(z: Tensor) -> Tensor:
        # past the lookup of codes, if there is one, which has no slope
        dist = CountAutoencoder.decode(autoencoder, z, log_library, **inputs)
        return dist.mean.clamp_min(torch.finfo(z.dtype).tiny).log()

    columns = []
    for direction in torch.eye(z.shape[1], device=z.device):
        columns.append(torch.func.jvp(log_mean, (z,), (direction.expand_as(z),))[1])
    return torch.stack(columns, dim=1)


def _latent_names(n: int) -> list[str]:
    return [f"z{k}" for k in range(n)]


def _tidy(values: np.ndarray, axes: Mapping[str, Sequence], name: str) -> pd.DataFrame:
    """Return an array as a frame with one row for each value and one column for each axis."""
    index = pd.MultiIndex.from_product([list(axis) for axis in axes.values()], names=list(axes))
    return pd.DataFrame({name: values.ravel()}, index=index).reset_index()
