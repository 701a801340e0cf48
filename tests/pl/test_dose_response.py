import numpy as np
import pytest

from scldm import data
from scldm.pl import dose_response


@pytest.fixture(scope="module")
def cells():
    return data.simulate_dose_response(20, 12, seed=0)


def log_expression(adata):
    x = adata.X.toarray()
    return np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))


def test_points_are_the_means_of_each_dose(cells):
    (ax,) = dose_response(cells, "gene_3", show=False)
    x = log_expression(cells)[:, 3]
    expected = {
        d: x[(cells.obs["dose"] == d).to_numpy()].mean() for d in cells.obs["dose"].unique()
    }
    drawn = [line.get_xydata() for line in ax.lines]
    treated = next(points for points in drawn if len(points) == 5)
    np.testing.assert_allclose(10 ** treated[:, 0], [0.1, 0.3, 1, 3, 10])
    np.testing.assert_allclose(treated[:, 1], [expected[d] for d in (0.1, 0.3, 1.0, 3.0, 10.0)])
    control = next(points for points in drawn if len(points) == 1)
    assert control[0, 0] < treated[0, 0]
    assert control[0, 1] == pytest.approx(expected[0.0])


def test_a_panel_for_each_gene_and_a_name_for_each_set(cells):
    half = cells[::2].copy()
    axes = dose_response({"real": cells, "predicted": half}, ["gene_1", "gene_2"], show=False)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in axes] == ["gene_1", "gene_2"]
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["real", "predicted"]


def test_bands_can_be_left_out(cells):
    with_band, without = (
        dose_response(cells, "gene_1", interval=shown, show=False)[0] for shown in (True, False)
    )
    assert len(with_band.collections) == len(without.collections) + 1


def test_the_figure_is_saved(cells, tmp_path):
    dose_response(cells, "gene_1", save=tmp_path / "doses.png")
    assert (tmp_path / "doses.png").stat().st_size > 5000


def negative(cells):
    wrong = cells.copy()
    wrong.obs["dose"] = -1.0
    return wrong


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cells: dose_response(cells, "MYC"), r"`genes` has \['MYC'\]"),
        (lambda cells: dose_response(cells, []), "`genes` is empty"),
        (lambda cells: dose_response({}, "gene_1"), "`cells` is empty"),
        (lambda cells: dose_response(cells, "gene_1", "amount"), r"`dose_key` has \['amount'\]"),
        (lambda cells: dose_response(cells, "gene_1", "cell_type"), "does not hold numbers"),
        (lambda cells: dose_response(negative(cells), "gene_1"), "doses below 0"),
    ],
)
def test_clear_errors(cells, call, message):
    with pytest.raises(ValueError, match=message):
        call(cells)
