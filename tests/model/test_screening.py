"""Perturbations ranked by what they do to cells."""

import numpy as np
import pytest

SETTINGS = {"seed": 0, "show_progress": False, "n_bootstrap": 50, "max_cells": 60}


def cells_of(model, guide):
    return model.adata[(model.adata.obs["guide"] == guide).to_numpy()].copy()


@pytest.mark.parametrize("guide", ["KLF1", "TP53"])
def test_the_perturbation_that_made_the_target_comes_first(trained, guide):
    table = trained.screen(doses=10.0, target=cells_of(trained, guide), **SETTINGS)
    assert len(table) == 4
    assert (table["dose"] == 10.0).all()
    assert table["score"].is_monotonic_decreasing
    assert table["perturbation"].iloc[0] == guide
    assert ((table["low"] < table["score"]) & (table["score"] < table["high"])).all()
    share = table.set_index("perturbation").loc[guide, "score"] / table.attrs["distance"]
    assert 0.5 < share < 1.2


def test_the_control_moves_nothing(trained):
    table = trained.screen(
        perturbations=["control", "KLF1"], doses=10.0, target=cells_of(trained, "KLF1"), **SETTINGS
    )
    scores = table.set_index("perturbation")["score"]
    assert scores["control"] == 0
    assert scores["KLF1"] > 0


def test_leading_away_from_a_target_scores_below_zero(trained):
    """Also where the control cells are as near to it as can be."""
    target = cells_of(trained, "control")
    table = trained.screen(perturbations=["KLF1"], doses=10.0, target=target, **SETTINGS)
    assert table["score"].iloc[0] < 0
    assert abs(table.attrs["distance"]) < -table["score"].iloc[0]


def test_a_gene_named_twice_counts_once(trained):
    ask = {"perturbations": ["TP53"], "doses": 10.0, **SETTINGS}
    once, twice = (trained.screen(target=["gene_0"] * n, **ask) for n in (1, 2))
    assert twice["score"].iloc[0] == once["score"].iloc[0]
    with pytest.raises(ValueError, match="`target` has weights that are no finite numbers"):
        trained.screen(target={"gene_0": np.nan}, **ask)


def test_more_samples_are_not_more_cells(trained):
    widths = []
    for n in (1, 10):
        table = trained.screen(
            perturbations=["TP53"], doses=10.0, target=["gene_0"], n_samples=n, **SETTINGS
        )
        widths.append((table["high"] - table["low"]).iloc[0])
    # the spread between cells stays, that of draws is averaged
    assert widths[0] / 10**0.5 < widths[1] < widths[0]


def test_a_gene_that_a_perturbation_raises(trained):
    """As measured on the cells themselves."""

    def mean(guide):
        x = cells_of(trained, guide).layers["counts"].toarray()
        return np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)).mean(axis=0)

    change = mean("TP53") - mean("control")
    gene = trained.var_names[change.argmax()]
    table = trained.screen(doses=[1.0, 10.0], target=[gene], **SETTINGS)
    assert len(table) == 8
    assert table["perturbation"].iloc[0] == "TP53"
    assert table["score"].iloc[0] == pytest.approx(change.max(), rel=0.5)
    down = trained.screen(doses=1.0, target={gene: -1.0}, **SETTINGS)
    assert down["perturbation"].iloc[-1] == "TP53"


def test_same_seed_same_table(trained):
    one, two = (
        trained.screen(perturbations="KLF1+TP53", doses=1.0, target=["gene_0"], **SETTINGS)
        for _ in range(2)
    )
    assert one.equals(two)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target": []}, "`target` is empty"),
        ({"target": ["MYC"]}, r"genes that the model has not: \['MYC'\]"),
        ({"target": ["gene_0"], "perturbations": []}, "`perturbations` is empty"),
        ({"target": ["gene_0"], "doses": []}, "`doses` is empty"),
        ({"target": ["gene_0"], "perturbations": ["MYC"], "doses": 1.0}, "'MYC'"),
        ({"target": ["gene_0"], "n_bootstrap": 0}, "`n_bootstrap=0`"),
        ({"target": ["gene_0"], "max_cells": 1}, "`max_cells` leave 1 control cells, and"),
    ],
)
def test_clear_errors(trained, asked, message):
    with pytest.raises(ValueError, match=message):
        trained.screen(**(SETTINGS | asked))


def test_intervals_need_several_cells(trained):
    with pytest.raises(ValueError, match="`target` has 4 cells, and intervals need 5"):
        trained.screen(doses=1.0, target=cells_of(trained, "KLF1")[:4].copy(), **SETTINGS)
    control = np.flatnonzero((trained.adata.obs["guide"] == "control").to_numpy())
    with pytest.raises(ValueError, match="leave 4 control cells"):
        trained.screen(
            indices=[*control[:4], control[0]], doses=1.0, target=["gene_0"], **SETTINGS
        )


def test_doses_that_none_has_are_warned_of_once(trained):
    with pytest.warns(UserWarning, match="`dose` has 100 of") as caught:
        trained.screen(doses=[1.0, 100.0], target=["gene_0"], **SETTINGS)
    assert len([w for w in caught if "`dose`" in str(w.message)]) == 1
