"""How likely cells are, against densities and integrals that are known."""

import numpy as np
import pytest
import torch
from scipy import stats

from scldm import SCLDM
from scldm.diffusion import GaussianMixtureDenoiser, RectifiedFlow


@pytest.fixture
def copied(trained, tmp_path):
    """The trained model, to be changed."""
    trained.save(tmp_path / "model")
    return SCLDM.load(tmp_path / "model", trained.adata.copy(), accelerator="cpu")


def _gaussian(model, mean, std):
    """Put a normal distribution, in standardised units, in place of the denoiser."""
    shape = (model.module.diffusion.n_latent + 1,)
    denoiser = GaussianMixtureDenoiser(
        RectifiedFlow(), torch.full(shape, mean), torch.full(shape, std)
    )
    model.module.diffusion.averaged = denoiser
    return model


@pytest.mark.parametrize("n_probes", [None, 2])
def test_the_density_of_a_gaussian_is_exact(copied, n_probes):
    """For a diagonal Gaussian a single probe of signs is exact, too."""
    model = _gaussian(copied, 0.3, 0.7)
    adata = model.adata
    total = np.asarray(adata.layers["counts"].sum(1))
    x = np.concatenate([model.get_latent_representation(), np.log(total)], axis=1)
    shift, scale = (getattr(model.module.diffusion, n).numpy() for n in ("shift", "scale"))
    truth = stats.norm.logpdf(x, shift + 0.3 * scale, 0.7 * scale).sum(1)
    found = model.get_latent_log_density(n_probes=n_probes, seed=0)
    assert found.shape == (400,)
    np.testing.assert_allclose(found, truth, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("library_size_key", [None, "total"])
def test_the_bound_reaches_the_integral(adata, library_size_key):
    """With one latent and a known prior the likelihood is an integral over a plane."""
    counts = adata.layers["counts"].toarray()
    adata.obs["total"] = 5.0 * counts.sum(1)
    SCLDM.setup_anndata(
        adata, layer="counts", library_size_key=library_size_key, batch_key="donor"
    )
    model = SCLDM(adata, n_hidden=16, n_latent=1, width=16, depth=1)
    model.train(max_epochs=15, max_steps=5, enable_progress_bar=False)
    diffusion = _gaussian(model, 0.0, 1.0).module.diffusion
    shift, scale = diffusion.shift.double().numpy(), diffusion.scale.double().numpy()
    z = np.linspace(-5, 5, 121)[:, None] * scale[0] + shift[0]
    log_l = np.linspace(-5, 5, 121) * scale[1] + shift[1]
    grid = np.array(np.meshgrid(z, log_l, indexing="ij")).reshape(2, -1).T
    log_prior = stats.norm.logpdf(grid, shift, scale).sum(1)
    area = np.diff(z[:, 0])[0] * np.diff(log_l)[0]
    truth = []
    for i in range(4):
        dist = model.decode(
            grid[:, :1], np.exp(grid[:, 1]), return_dist=True, batch=adata.obs["donor"].iloc[i]
        )
        log_x = dist.log_prob(torch.from_numpy(counts[i])).sum(1).double().numpy()
        truth.append(np.logaddexp.reduce(log_x + log_prior) + np.log(area))
    bound = model.get_log_likelihood(indices=range(4), n_samples=4000, seed=0)
    np.testing.assert_allclose(bound, truth, atol=0.15)
    loose = np.mean(
        [model.get_log_likelihood(indices=range(4), n_samples=1, seed=s) for s in range(10)]
    )
    assert loose < np.mean(truth)


def test_the_bound_grows_with_the_number_of_draws(trained):
    few, more, many = (
        trained.get_log_likelihood(indices=range(150), n_samples=k, seed=0).mean()
        for k in (1, 4, 16)
    )
    assert few + 0.1 < more < many
    # and beats the evidence bound under a standard normal prior
    assert many > trained.get_elbo(indices=range(150)) + 1


def test_new_cells_are_likelier_than_shuffled_ones(trained, new_data):
    rng = np.random.default_rng(0)
    shuffled = new_data.copy()
    counts = new_data.layers["counts"].toarray()
    shuffled.layers["counts"] = type(new_data.layers["counts"])(rng.permuted(counts, axis=1))
    real = trained.get_log_likelihood(new_data, n_samples=4, seed=0)
    wrong = trained.get_log_likelihood(shuffled, n_samples=4, seed=0)
    assert (real > wrong).mean() > 0.95
    latent = trained.get_latent_log_density(new_data)
    assert np.median(latent) > np.median(trained.get_latent_log_density(shuffled)) + 2


def test_cells_are_likeliest_under_their_own_type(trained, new_data):
    swapped = new_data.copy()
    others = {"T": "B", "B": "T", "NK": "T"}
    swapped.obs["type"] = swapped.obs["type"].map(others).astype(new_data.obs["type"].dtype)
    for score in (trained.get_latent_log_density, trained.get_log_likelihood):
        assert np.median(score(new_data, seed=0) - score(swapped, seed=0)) > 1


@pytest.mark.parametrize("n_probes", [None, 1])
def test_seeds_and_the_global_random_state(trained, n_probes):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    settings = {"indices": range(280), "n_probes": n_probes}
    density = trained.get_latent_log_density(seed=3, **settings)
    bound = trained.get_log_likelihood(seed=3, n_samples=2, **settings)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = trained.get_log_likelihood(seed=3, n_samples=2, **settings)
    np.testing.assert_array_equal(bound, again)
    np.testing.assert_array_equal(density, trained.get_latent_log_density(seed=3, **settings))
    assert (trained.get_log_likelihood(seed=4, n_samples=2, **settings) != bound).any()


def test_cells_that_are_asked_for(trained):
    everyone = trained.get_latent_log_density()
    some = trained.get_latent_log_density(indices=[5, 3])
    np.testing.assert_allclose(some, everyone[[5, 3]], atol=0.3)
    assert everyone.dtype == np.float32


def test_codes_have_a_density_but_no_likelihood(adata):
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    model = SCLDM(adata, autoencoder="vq", n_hidden=16, n_latent=4, width=16, depth=1)
    model.train(max_epochs=2, max_steps=5, enable_progress_bar=False)
    with pytest.raises(ValueError, match="not available with `autoencoder='vq'`"):
        model.get_log_likelihood()
    assert np.isfinite(model.get_latent_log_density(indices=range(10))).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_samples": 0}, "`n_samples=0` must be a whole number"),
        ({"n_probes": 0}, "`n_probes=0` must be a whole number"),
        ({"seed": -1}, "`seed=-1` must be"),
        ({"indices": [400]}, "`indices` has 400, but the cells are numbered from 0 to 399"),
        ({"indices": []}, "`indices` is empty"),
        ({"indices": [0.5]}, "`indices` must be a list of places"),
    ],
)
def test_wrong_arguments(trained, arguments, words):
    with pytest.raises(ValueError, match=words):
        trained.get_log_likelihood(**arguments)


def test_an_untrained_model_says_so(adata):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata)
    for method in (model.get_latent_log_density, model.get_log_likelihood):
        with pytest.raises(RuntimeError, match="diffusion is not trained"):
            method()
