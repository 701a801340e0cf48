"""Changes by two perturbations together against the sum of their changes."""

from typing import NamedTuple

from numpy.typing import ArrayLike

from scldm.metrics._checks import as_dense

__all__ = ["Synergy", "synergy"]


class Synergy(NamedTuple):
    """What :func:`synergy` returns."""

    factor: float
    """The multiple of the sum of both changes that comes nearest to the joint change; 1 if additive."""
    share: float
    """The part of the squared joint change that no multiple of the sum explains; 0 if additive."""


def synergy(both: ArrayLike, one: ArrayLike, other: ArrayLike, control: ArrayLike) -> Synergy:
    r"""How far the change by two perturbations together is from the sum of their changes.

    With changes of the mean :math:`\delta` and :math:`s = \delta_1 + \delta_2`,

    .. math:: f = \frac{\langle \delta_{12}, s \rangle}{\lVert s \rVert^2}, \qquad
        1 - \frac{\langle \delta_{12}, s \rangle^2}{\lVert s \rVert^2 \lVert \delta_{12} \rVert^2}.

    Products are rid of what the sampling of cells adds to them (the control cells, which stand in all
    changes, add to every one), so that few cells do not look like synergy; for weak changes the share
    may lie outside 0 to 1.

    Parameters
    ----------
    both, one, other, control
        Cells under both perturbations, under each, and under none.

    Returns
    -------
    Not a number where nothing changes beyond noise.

    Raises
    ------
    ValueError
        If a sample has less than two cells.

    References
    ----------
    Norman et al. (2019). Exploring genetic interaction manifolds constructed from rich single-cell
    phenotypes. Science 365:786 (changes of two as multiples of the changes of one).
    """
    samples = [as_dense(cells) for cells in (both, one, other, control)]
    names = ("both", "one", "other", "control")
    for name, cells in zip(names, samples, strict=True):
        if len(cells) < 2:
            raise ValueError(f"`{name}` has {len(cells)} cells; 2 or more are needed.")
    means = [cells.mean(axis=0) for cells in samples]
    noise = [cells.var(axis=0, ddof=1).sum() / len(cells) for cells in samples]
    joint = means[0] - means[3]
    total = means[1] + means[2] - 2 * means[3]
    product = joint @ total - 2 * noise[3]
    squared = total @ total - noise[1] - noise[2] - 4 * noise[3]
    joint_squared = joint @ joint - noise[0] - noise[3]
    if squared <= 0 or joint_squared <= 0:
        return Synergy(float("nan"), float("nan"))
    return Synergy(float(product / squared), float(1 - product**2 / (squared * joint_squared)))
