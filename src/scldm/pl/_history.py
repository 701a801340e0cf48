"""Training curves of both stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scldm.pl._style import GENERATED, REAL, finish, panels, style

__all__ = ["Trained", "curves_of", "history"]

History = Mapping[str, pd.DataFrame]


class Trained(Protocol):
    """Any model that kept its training curves."""

    @property
    def history(self) -> History | None:
        """One table with one column for each quantity, by epoch."""


class Curve(NamedTuple):
    """A quantity that training writes down, and how to name it."""

    key: str
    title: str
    unit: str


CURVES = (
    Curve("reconstruction_loss", "Stage 1: reconstruction", "nats per cell"),
    Curve("elbo", "Stage 1: negative ELBO", "nats per cell"),
    Curve("diffusion_loss", "Stage 2: diffusion", "squared error"),
    Curve("perturbation_loss", "Perturbation: flow", "squared error"),
    Curve("trajectory_loss", "Trajectory: flow", "squared error"),
)
SIDES = (("train", REAL, 1.1), ("validation", GENERATED, 1.6))


def history(
    model: Trained | History, *, show: bool | None = None, save: str | Path | None = None
) -> list[Axes] | None:
    """Training curves of all stages.

    A ring marks the lowest validation value. The vertical axis leaves out the steep first epochs
    where they would flatten everything after them.

    Parameters
    ----------
    model
        A trained model, or its ``history``: for each key such as ``"elbo_train"`` or
        ``"diffusion_loss_validation"`` a table of one column, indexed by epoch.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The axes, one for each curve, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If there is no training curve.
    """
    tables = (model if isinstance(model, Mapping) else model.history) or {}
    curves = curves_of(tables)
    if not curves:
        raise ValueError(
            f"There is no training curve. Train the model first. Known: {list(tables)}."
        )
    with style():
        axes = panels(len(curves), len(curves), 3.4 * len(curves), 2.8)
        for ax, curve in zip(axes, curves, strict=True):
            _draw(ax, curve, tables)
        return finish(axes, show, save)


def curves_of(tables: History) -> list[Curve]:
    """The quantities that were written down."""
    return [c for c in CURVES if any(f"{c.key}_{side}" in tables for side, *_ in SIDES)]


def _draw(ax: Axes, curve: Curve, tables: History) -> None:
    drawn = []
    for side, colour, width in SIDES:
        table = tables.get(f"{curve.key}_{side}")
        if table is None:
            continue
        epoch, value = _finite(table)
        drawn.append(value)
        ax.plot(epoch, value, color=colour, lw=width, label=side)
        if side == "validation" and len(value):
            best = int(np.argmin(value))
            ax.plot(epoch[best], value[best], "o", ms=7, mfc="none", mec=colour, mew=1.4)
    ax.set(xlabel="epoch", ylabel=curve.unit)
    ax.set_title(curve.title)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    _limit(ax, drawn)
    ax.legend(loc="upper right", handlelength=1.4)


def _finite(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    column = pd.to_numeric(table.iloc[:, 0], errors="coerce")
    column = column[np.isfinite(column)]
    return column.index.to_numpy(dtype=float), column.to_numpy(dtype=float)


def _limit(ax: Axes, drawn: list[np.ndarray]) -> None:
    """Leave out the first tenth of the epochs where they span more than all the others."""
    later = [value[len(value) // 10 :] for value in drawn if len(value) >= 20]
    if not later:
        return
    low = min(value.min() for value in later)
    high = max(value.max() for value in later)
    top = max(value.max() for value in drawn)
    if high > low and top > high + 1.5 * (high - low):
        ax.set_ylim(low - 0.06 * (high - low), high + 0.25 * (high - low))
