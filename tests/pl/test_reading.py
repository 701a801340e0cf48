import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from scldm.pl import attention, condition_effects, gene_loadings


def loadings(n_latent=8, n_genes=30, groups=None):
    rng = np.random.default_rng(0)
    rows = itertools.product(
        groups or [None], [f"g{i}" for i in range(n_genes)], [f"z{k}" for k in range(n_latent)]
    )
    frame = pd.DataFrame(rows, columns=["group", "gene", "latent"])
    frame["loading"] = rng.normal(size=len(frame)) * (1 + frame["latent"].str[1:].astype(int))
    return frame if groups else frame.drop(columns="group")


def effects(values=3):
    rng = np.random.default_rng(0)
    rows = [
        (condition, f"{condition}{i}", latent)
        for condition, n in (("cell_type", values), ("batch", 2))
        for i in range(n)
        for latent in ("z0", "z1", "library_size")
    ]
    frame = pd.DataFrame(rows, columns=["condition", "value", "latent"])
    return frame.assign(effect=rng.normal(size=len(frame)))


def weights(groups=None):
    rng = np.random.default_rng(0)
    rows = itertools.product(groups or [None], range(3), ["cell_type", "batch", "guide: 1"])
    frame = pd.DataFrame(rows, columns=["group", "block", "token"])
    frame["weight"] = rng.dirichlet(np.ones(3), len(frame) // 3).ravel()
    return frame if groups else frame.drop(columns="group")


def ticks(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_bars_are_the_genes_with_the_largest_loadings(titles):
    frame = loadings()
    axes = gene_loadings(frame, n_genes=4, latents=["z2"], show=False)
    assert titles(axes) == ["z2"]
    own = frame[frame["latent"] == "z2"].set_index("gene")["loading"]
    top = own.loc[own.abs().nlargest(4).index].sort_values()
    assert ticks(axes[0]) == list(top.index)
    np.testing.assert_allclose([bar.get_width() for bar in axes[0].patches], top)


def test_the_strongest_latents_in_their_order(titles):
    frame = loadings(n_latent=12)
    assert titles(gene_loadings(frame, show=False)) == ["z6", "z7", "z8", "z9", "z10", "z11"]
    assert titles(gene_loadings(frame, latents=["z3", "z1"], show=False)) == ["z3", "z1"]


def test_points_are_groups_and_bars_their_mean():
    frame = loadings(groups=["T", "B"])
    axes = gene_loadings(frame, n_genes=3, latents=["z5"], show=False)
    ax = axes[0]
    genes = ticks(ax)
    table = frame[frame["latent"] == "z5"].pivot(index="gene", columns="group", values="loading")
    np.testing.assert_allclose(
        [bar.get_width() for bar in ax.patches], table.loc[genes].mean(axis=1)
    )
    points = {tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 3}
    assert points == {tuple(table.loc[genes, group]) for group in ("T", "B")}
    assert [text.get_text() for text in axes[0].figure.legends[0].get_texts()] == ["T", "B"]


def test_numbers_as_groups():
    frame = loadings(groups=[0, 1])
    assert len(gene_loadings(frame, show=False)[0].figure.legends[0].get_texts()) == 2


def test_a_panel_for_each_condition(titles):
    frame = effects()
    axes = condition_effects(frame, show=False)
    assert titles(axes) == ["cell_type", "batch"]
    first, second = axes[:2]
    assert ticks(first) == ["cell_type0", "cell_type1", "cell_type2"]
    assert [label.get_text() for label in second.get_xticklabels()] == ["z0", "z1", "library size"]
    mesh = first.collections[0]
    wanted = frame[frame["condition"] == "cell_type"]["effect"].to_numpy()
    np.testing.assert_allclose(mesh.get_array().ravel(), wanted)
    # no effect is white, and both panels share their colours
    limit = frame["effect"].abs().max()
    for ax in (first, second):
        assert ax.collections[0].get_clim() == (-limit, limit)


def test_only_the_strongest_of_many_values():
    frame = effects(values=50)
    kept = ticks(condition_effects(frame, n_values=5, show=False)[0])
    own = frame[frame["condition"] == "cell_type"]
    size = own.groupby("value", sort=False)["effect"].apply(lambda x: (x**2).mean())
    assert kept == [value for value in size.index if value in set(size.nlargest(5).index)]


def test_no_effect_at_all_can_be_drawn():
    axes = condition_effects(effects().assign(effect=0.0), show=False)
    assert axes[0].collections[0].get_clim() == (-1, 1)


def test_shares_of_attention_are_written_down():
    frame = weights()
    axes = attention(frame, show=False)
    ax = axes[0]
    assert ticks(ax) == ["cell_type", "batch", "guide: 1"]
    table = frame.pivot_table(index="token", columns="block", values="weight", sort=False)
    written = [text.get_text() for text in ax.texts]
    assert written == [f"{100 * value:.0f}" for value in table.to_numpy().ravel()]


def test_a_panel_for_each_group(titles):
    axes = attention(weights(groups=["T", "B", "NK", "M", "D"]), show=False)
    assert titles(axes) == ["T", "B", "NK", "M", "D"]
    limits = {ax.collections[0].get_clim() for ax in axes}
    assert len(limits) == 1


@pytest.mark.parametrize(
    ("draw", "frame"),
    [(gene_loadings, loadings()), (condition_effects, effects()), (attention, weights())],
)
def test_save_show_and_other_tables(draw, frame, tmp_path, monkeypatch):
    before = frame.copy()
    draw(frame, save=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    pd.testing.assert_frame_equal(frame, before)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert draw(frame, show=True) is None
    assert shown == [1]
    with pytest.raises(ValueError, match=r"`frame` has no column .*; it comes from `model.get_"):
        draw(pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match="`frame` is empty"):
        draw(frame.iloc[:0])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`n_genes=0` must be"):
        gene_loadings(loadings(), n_genes=0)
    with pytest.raises(ValueError, match=r"`latents` has \['z99'\]. Known: \['z0'"):
        gene_loadings(loadings(), latents=["z0", "z99"])
    with pytest.raises(ValueError, match="`latents` is empty"):
        gene_loadings(loadings(), latents=[])
    with pytest.raises(ValueError, match="`n_values=0` must be"):
        condition_effects(effects(), n_values=0)
