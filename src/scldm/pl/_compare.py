"""Real and generated cells, side by side."""

from pathlib import Path

from anndata import AnnData
from matplotlib.axes import Axes

from scldm.pl._checks import require_at_least
from scldm.pl._distributions import draw_library_size, draw_mean_variance, draw_zeros
from scldm.pl._embedding import joint_umap
from scldm.pl._samples import NAMES, Samples
from scldm.pl._style import WIDTH, finish, new_figure, style
from scldm.pl._umap import draw_umap, umap_height

__all__ = ["compare"]

BELOW = 2.75
"""Height of the lower panels, in inches."""


def compare(
    real: AnnData,
    generated: AnnData,
    groupby: str | None = None,
    *,
    layer: str | None = None,
    names: tuple[str, str] = NAMES,
    max_cells: int = 3000,
    n_pcs: int = 30,
    seed: int = 0,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Real and generated cells at a glance.

    Above, :func:`umap`; below, :func:`mean_variance`, :func:`zeros` and :func:`library_size`.
    Where the generator is right, orange lies on grey.

    Parameters
    ----------
    real, generated, groupby, layer, names, max_cells, n_pcs, seed, show, save
        As in :func:`umap`.

    Returns
    -------
    The axes of the six panels, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If genes differ, ``groupby`` or ``layer`` is missing, or a number is too small.

    See Also
    --------
    scldm.metrics.evaluate : The same in numbers.
    """
    require_at_least("n_pcs", n_pcs, 1)
    samples = Samples.of(
        real, generated, groupby, layer=layer, names=names, max_cells=max_cells, seed=seed
    )
    positions = joint_umap(*samples.counts, n_pcs, seed)
    with style():
        heights = (umap_height(samples), BELOW)
        # Subfigures leave no room for titles at their upper edge unless the padding does.
        figure = new_figure(WIDTH, sum(heights), pad=0.12)
        above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
        axes = draw_umap(above, samples, positions)
        lower = list(below.subplots(1, 3))
        for draw, ax in zip(
            (draw_mean_variance, draw_zeros, draw_library_size), lower, strict=True
        ):
            draw(ax, samples)
        return finish(axes + lower, show, save)
