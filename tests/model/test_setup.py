"""What setup_anndata takes, what it refuses and with which words."""

import warnings

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import scldm
from scldm import SCLDM


def _with_value(adata, value):
    adata.layers["counts"] = adata.layers["counts"].copy()
    adata.layers["counts"].data[7] = value
    return adata


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1.0, "negative values (for example -1.0)"),
        (0.5, "fractions (for example 0.5)"),
        (np.nan, "NaN"),
        (np.inf, "infinite values"),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_values_that_are_not_counts(adata, value, words, dense):
    adata = _with_value(adata, value)
    if dense:
        adata.layers["counts"] = adata.layers["counts"].toarray()
    with pytest.raises(ValueError) as error:
        SCLDM.setup_anndata(adata, layer="counts")
    assert f"`adata.layers['counts']` has {words}" in str(error.value)
    assert "whole numbers, 0 or more" in str(error.value)


def test_log_values_in_x_point_to_the_layer(adata):
    with pytest.raises(ValueError, match=r"`adata\.X` has fractions.*layer="):
        SCLDM.setup_anndata(adata)


def test_empty_cells(adata):
    adata.layers["counts"] = sparse.csr_matrix(
        adata.layers["counts"].multiply(np.arange(400)[:, None] > 2)
    )
    with pytest.raises(ValueError, match=r"3 cells without any count.*filter_cells"):
        SCLDM.setup_anndata(adata, layer="counts")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_no_cells_or_no_genes(shape):
    with pytest.raises(ValueError, match="cells and genes are needed"):
        SCLDM.setup_anndata(ad.AnnData(np.zeros(shape, dtype=np.float32)))


@pytest.mark.parametrize(
    "argument",
    [
        "cell_type_key",
        "batch_key",
        "perturbation_key",
        "dose_key",
        "time_key",
        "library_size_key",
    ],
)
def test_a_missing_column_is_named_with_the_known_ones(adata, argument):
    with pytest.raises(KeyError) as error:
        SCLDM.setup_anndata(adata, layer="counts", **{argument: "typo"})
    assert f"`{argument}='typo'` is not a column of `adata.obs`" in str(error.value)
    assert "'type'" in str(error.value)


def test_missing_layer_and_coordinates(adata):
    with pytest.raises(KeyError, match=r"`layer='raw'` is not in `adata.layers`.*counts"):
        SCLDM.setup_anndata(adata, layer="raw")
    with pytest.raises(KeyError, match=r"`spatial_key='xy'` is not in `adata.obsm`.*X_place"):
        SCLDM.setup_anndata(adata, layer="counts", spatial_key="xy")


@pytest.mark.parametrize("key", ["categorical_covariate_keys", "continuous_covariate_keys"])
def test_a_missing_covariate(adata, key):
    with pytest.raises(KeyError, match=f"`{key}='typo'` is not a column"):
        SCLDM.setup_anndata(adata, layer="counts", **{key: ["typo"]})


@pytest.mark.parametrize(
    ("argument", "column"),
    [("cell_type_key", "type"), ("batch_key", "sex"), ("perturbation_key", "guide")],
)
def test_a_category_that_is_missing_in_some_cells(adata, argument, column):
    adata.obs[column] = adata.obs[column].astype(object)
    adata.obs.iloc[:4, adata.obs.columns.get_loc(column)] = np.nan
    with pytest.raises(ValueError) as error:
        SCLDM.setup_anndata(adata, layer="counts", **{argument: column})
    assert f"`{argument}={column!r}` has no value (NaN) in 4 of 400 cells" in str(error.value)


@pytest.mark.parametrize("argument", ["dose_key", "time_key", "library_size_key"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_missing_in_some_cells(adata, argument, value):
    adata.obs["age"] = adata.obs["age"].abs()
    adata.obs.iloc[3, adata.obs.columns.get_loc("age")] = value
    with pytest.raises(ValueError, match=f"`{argument}='age'` is NaN or infinite in 1 of 400"):
        SCLDM.setup_anndata(adata, layer="counts", **{argument: "age"})


def test_a_number_that_is_text(adata):
    with pytest.raises(ValueError, match="`time_key='sex'` holds .* must hold numbers"):
        SCLDM.setup_anndata(adata, layer="counts", time_key="sex")


def test_library_sizes_above_zero(adata):
    with pytest.raises(ValueError, match="`library_size_key='concentration'` has values of 0"):
        SCLDM.setup_anndata(adata, layer="counts", library_size_key="concentration")


def test_coordinates_have_two_or_three_columns(adata):
    adata.obsm["wide"] = np.zeros((400, 4))
    with pytest.raises(ValueError, match=r"`spatial_key='wide'` has shape \(400, 4\)"):
        SCLDM.setup_anndata(adata, layer="counts", spatial_key="wide")


def test_the_control_must_occur(adata):
    with pytest.raises(ValueError, match=r"`control_label='ctrl'` does not occur.*'control'"):
        SCLDM.setup_anndata(adata, layer="counts", perturbation_key="guide", control_label="ctrl")


def test_a_covariate_cannot_take_the_name_of_an_argument(adata):
    adata.obs["seed"] = "a"
    with pytest.raises(ValueError, match="covariate 'seed' has the name of an argument"):
        SCLDM.setup_anndata(adata, layer="counts", categorical_covariate_keys=["seed"])


def test_only_anndata(adata):
    with pytest.raises(TypeError, match="`adata` is a DataFrame"):
        SCLDM.setup_anndata(adata.obs)


def test_unknown_choices_name_the_known_ones(adata):
    SCLDM.setup_anndata(adata, layer="counts")
    for argument, known in (
        ("gene_likelihood", "zinb"),
        ("schedule", "vp_linear"),
        ("parametrisation", "noise"),
        ("times", "uniform"),
    ):
        with pytest.raises(ValueError) as error:
            SCLDM(adata, **{argument: "typo"})
        assert f"`{argument}='typo'` is not known" in str(error.value)
        assert known in str(error.value)


def test_the_setup_is_printed(adata, setup, capsys):
    SCLDM.setup_anndata(adata, **setup)
    model = SCLDM(adata)
    model.view_anndata_setup()
    printed = capsys.readouterr().out
    for word in ("guide", "X_place", "CEBPA+KLF1", "control_label"):
        assert word in printed


def test_setup_is_transferred_to_new_data(trained, new_data):
    new = new_data
    latents = trained.get_latent_representation(new)
    assert latents.shape == (50, 6)
    # and the codes are those of the training data, though the new data lack a type
    np.testing.assert_allclose(
        trained.get_latent_representation(new[new.obs["type"] == "NK"].copy()),
        latents[(new.obs["type"] == "NK").to_numpy()],
        atol=1e-5,
    )


def test_new_data_must_have_the_genes_in_order(trained, new_data):
    new = new_data
    with pytest.raises(ValueError, match=r"lacks 2 of the 40 genes.*gene_0"):
        trained.get_latent_representation(new[:, 2:].copy())
    with pytest.raises(ValueError, match=r"another order.*model\.var_names"):
        trained.get_latent_representation(new[:, ::-1].copy())
    ordered = new[:, ::-1].copy()[:, trained.var_names].copy()
    np.testing.assert_array_equal(
        trained.get_latent_representation(ordered), trained.get_latent_representation(new)
    )


def test_new_data_must_be_counts_of_known_categories(trained, new_data):
    with pytest.raises(ValueError, match="has fractions"):
        trained.get_latent_representation(_with_value(new_data.copy(), 0.5))
    new = new_data.copy()
    new.obs["type"] = new.obs["type"].cat.rename_categories({"NK": "Bcell"})
    with pytest.raises(ValueError, match=r"`cell_type_key='type'` holds \['Bcell'\], unknown"):
        trained.get_latent_representation(new)


def test_package_lists_what_it_has():
    assert set(scldm.__all__) <= set(dir(scldm))


def test_unused_categories_are_not_known(adata):
    adata.obs["type"] = adata.obs["type"].cat.add_categories("ghost")
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    (condition,) = SCLDM(adata).conditions
    assert condition.observed == ["T", "NK", "B"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"categorical_covariate_keys": ["sex", "sex"]}, "'sex' is given twice"),
        (
            {"categorical_covariate_keys": ["age"], "continuous_covariate_keys": ["age"]},
            "'age' is given twice",
        ),
        ({"categorical_covariate_keys": ["spatial_0"]}, "'spatial_0' has the name of"),
        ({"categorical_covariate_keys": ["n_samples"]}, "'n_samples' has the name of"),
    ],
)
def test_covariates_that_collide(adata, keys, words):
    adata.obs["spatial_0"] = adata.obs["n_samples"] = "a"
    with pytest.raises(ValueError, match=words):
        SCLDM.setup_anndata(adata, layer="counts", **keys)


def test_categories_are_text_or_numbers(adata):
    adata.obs["mixed"] = [1, "a"] * 200
    with pytest.raises(ValueError, match="categories of type int, str"):
        SCLDM.setup_anndata(adata, layer="counts", cell_type_key="mixed")
    adata.obs["when"] = np.datetime64("2020-01-01")
    with pytest.raises(ValueError, match="categories of type Timestamp"):
        SCLDM.setup_anndata(adata, layer="counts", batch_key="when")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n_latent": 0}, ValueError, "`n_latent=0` must be a whole number"),
        ({"width": -1}, ValueError, "`width=-1` must be"),
        ({"condition_dropout": 1.5}, ValueError, "`condition_dropout=1.5` must be a number of"),
        ({"ema_decay": 2}, ValueError, "`ema_decay=2` must be"),
        ({"dispersion": "typo"}, ValueError, "`dispersion='typo'` is not known"),
        ({"latent_distribution": "ln"}, TypeError, "`latent_distribution` cannot be set"),
    ],
)
def test_wrong_arguments_of_the_model(adata, arguments, error, words):
    SCLDM.setup_anndata(adata, layer="counts")
    with pytest.raises(error, match=words):
        SCLDM(adata, **arguments)


def test_new_data_may_hold_new_combinations_but_no_new_covariates(trained, new_data):
    new_data.obs["guide"] = "KLF1+TP53"
    assert trained.get_latent_representation(new_data.copy()).shape == (50, 6)
    new_data.obs["sex"] = "X"
    with pytest.raises(ValueError, match=r"`categorical_covariate_keys='sex'` holds \['X'\]"):
        trained.get_latent_representation(new_data.copy())


def test_doses_are_told_apart_by_their_factors(adata, setup):
    """Also far below the highest dose, where the control's zero is one more step away."""
    adata.obs["concentration"] = np.resize([0.0, 0.01, 0.1, 1.0, 10.0], adata.n_obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SCLDM.setup_anndata(adata, **setup)
        model = SCLDM(adata, n_hidden=8, n_latent=2, width=16, depth=1)
    (condition,) = (c for c in model.conditions if c.name == "perturbation")
    doses = condition.dose.standardise(np.array([0.0, 0.01, 0.1, 1.0, 10.0]))
    steps = np.diff(doses)
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.min()
    values = condition.dose.standardise(adata.obs["concentration"].to_numpy())
    assert values.mean() == pytest.approx(0, abs=1e-6)
    assert values.std() == pytest.approx(1)
