"""One page about generated cells: scores, figures, and how they were made."""

from collections import Counter
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from platform import python_version
from string import Template
from typing import Any

import pandas as pd
from anndata import AnnData

from scldm._version import __version__
from scldm.metrics import evaluate
from scldm.pl._correlation import correlation
from scldm.pl._distributions import library_size, mean_variance, zeros
from scldm.pl._dotplot import Genes, by_group, dotplot, flat
from scldm.pl._history import Trained, curves_of, history
from scldm.pl._html import definitions, figure, group_tables, score_table, section, summary
from scldm.pl._samples import Samples
from scldm.pl._scores import HEADLINES, scores, steps
from scldm.pl._style import write_whole
from scldm.pl._table import ALL, FLOOR, judged, require_scores
from scldm.pl._umap import umap

__all__ = ["report"]

PACKAGES = ("anndata", "scanpy", "scvi-tools", "torch", "scikit-learn", "numpy")


def report(
    real: AnnData,
    generated: AnnData,
    real_train: AnnData | None = None,
    groupby: str | None = None,
    *,
    model: Trained | None = None,
    path: str | Path = "report.html",
    title: str = "Generated cells",
    layer: str | None = None,
    genes: Genes | None = None,
    table: pd.DataFrame | None = None,
    n_pcs: int = 30,
    max_cells: int = 3000,
    seed: int = 0,
    n_jobs: int | None = None,
) -> Path:
    """Write all scores and figures of generated cells to one page.

    The page is one HTML file that refers to nothing outside: it can be mailed, printed, and read
    on a phone.

    Parameters
    ----------
    real
        Real cells that the generator has not seen, with integer counts.
    generated
        Generated cells with the genes of ``real``, in any order.
    real_train
        Real training cells, for the floor and for what looks into memory; see
        :func:`scldm.metrics.evaluate`.
    groupby
        Column of ``obs`` with the type, in all objects. Adds what is said of each type.
    model
        The model that generated the cells. Adds its training curves.
    path
        File to write, whole or not at all. Its folder must exist.
    title
        Heading of the page.
    layer
        Layer with the counts; ``X`` if ``None``. In ``generated``, ``X`` is taken if it has no
        such layer.
    genes
        Genes of :func:`dotplot`; by default markers of the real types.
    table
        From :func:`scldm.metrics.evaluate`, to spare computing it again; it may have several
        sources.
    n_pcs
        Number of principal components, for the scores and the map.
    max_cells
        The most cells of each sample, for the scores and the map.
    seed
        Seed of all random choices.
    n_jobs
        Threads of the random forests.

    Returns
    -------
    The path.

    Raises
    ------
    ValueError
        If genes differ or are unknown, ``groupby`` or ``layer`` is missing, ``table`` is another
        table, or there are too few cells.
    FileNotFoundError
        If the folder of ``path`` does not exist.

    See Also
    --------
    scldm.metrics.evaluate : The scores.
    """
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"`path={str(path)!r}`: the folder `{path.parent}` is missing.")
    samples = Samples.of(real, generated, groupby, layer=layer)
    if table is not None:
        require_scores(table, ALL)
    if genes is not None:
        samples.places(flat(by_group(genes)))
    sampling: dict[str, Any] = {"layer": layer, "max_cells": max_cells, "seed": seed}
    if table is None:
        options = sampling | {"n_pcs": n_pcs, "n_jobs": n_jobs}
        table = evaluate(real, generated, real_train, groupby, **options)
    found = judged(table)
    sections = {
        "Scores": summary(found) + _score_figures(table) + score_table(found),
        "Scores by type": group_tables(found),
        "Cells": _cell_figures(real, generated, groupby, n_pcs, sampling),
        "Genes": _gene_figures(real, generated, groupby, genes, samples, layer),
        "Training": _training_figure(model),
        "Preparation": definitions(table.attrs.get("preprocessing") or {}),
        "Versions": definitions(_versions()),
    }
    template = files("scldm.pl").joinpath("report.html").read_text(encoding="utf-8")
    numbers = f"{real.n_obs:,} real cells, {generated.n_obs:,} generated cells, "
    page = Template(template).substitute(
        title=escape(title),
        subtitle=numbers + f"{real.n_vars:,} genes",
        sections="\n".join(section(name, text) for name, text in sections.items() if text),
    )
    write_whole("path", path, lambda draft: draft.write_text(page, encoding="utf-8"))
    return path


def _score_figures(table: pd.DataFrame) -> str:
    caption = (
        "A dot is a value, the line through it its 95% interval. The vertical line is the floor, "
        "the band its interval: dots on the band are as good as real cells."
    )
    text = figure("Scores against the floor", caption, scores(table, show=False))
    sources = [name for name in table["source"].unique() if name != FLOOR]
    if len(sources) > 1 and all(str(name).isdecimal() for name in sources):
        known = set(table.loc[table["group"] == ALL, "metric"])
        metrics = [name for name in HEADLINES if name in known][:3] or sorted(known)[:3]
        caption = "From where on the line is flat, more steps of the sampler bring nothing."
        text += figure("Scores by steps", caption, steps(table, metrics, show=False))
    return text


def _cell_figures(
    real: AnnData,
    generated: AnnData,
    groupby: str | None,
    n_pcs: int,
    sampling: dict[str, Any],
) -> str:
    maps = umap(real, generated, groupby, n_pcs=n_pcs, **sampling, show=False)
    caption = (
        "All cells by source, then each sample over the other one in light grey. The two sources "
        "should be mixed everywhere; grey that shows through is what the sample lacks."
    )
    panels = (
        (
            mean_variance,
            "Mean and variance",
            "A point is a gene, a line the running median. The lines should lie on each other; on "
            "the dashed one, cells would differ by chance only.",
        ),
        (
            zeros,
            "Zeros",
            "Cells in which a gene is not seen, by its mean. Read as the one before.",
        ),
        (library_size, "Library size", "Total counts of cells. The outlines should agree."),
    )
    row = [figure(title, text, draw(real, generated, **sampling, show=False))
           for draw, title, text in panels]  # fmt: skip
    return figure("Map of cells", caption, maps) + f'<div class="row">{"".join(row)}</div>'


def _gene_figures(
    real: AnnData,
    generated: AnnData,
    groupby: str | None,
    genes: Genes | None,
    samples: Samples,
    layer: str | None,
) -> str:
    text = ""
    labels = samples.labels
    sizes = Counter([] if labels is None else labels[0].tolist())
    # Markers are found between two types of two cells or more.
    has_markers = sum(n >= 2 for n in sizes.values()) >= 2
    if groupby is not None and (genes is not None or has_markers):
        caption = (
            "Colour is mean expression, size the share of cells with the gene. Both sides have the "
            "same scales and should look alike."
        )
        axes = dotplot(real, generated, groupby, genes, layer=layer, show=False)
        text += figure("Genes of types", caption, axes)
    if real.n_vars >= 2:
        caption = (
            "Correlation over cells of the genes that vary most. The first two maps should look "
            "alike; in the third, red is too much correlation and blue too little."
        )
        axes = correlation(real, generated, layer=layer, show=False)
        text += figure("Correlation of genes", caption, axes)
    return text


def _training_figure(model: Trained | None) -> str:
    if model is None or not curves_of(model.history or {}):
        return ""
    caption = "Loss by epoch; a ring marks the lowest value on validation cells."
    return figure("Training curves", caption, history(model, show=False))


def _versions() -> dict[str, str]:
    return {
        "scldm": __version__,
        **{name: version(name) for name in PACKAGES},
        "python": python_version(),
    }
