import numpy as np
import pytest
import torch
from scvi.module import VAE

from scldm.module import CountAutoencoder, moment_dispersion


def _moments(x, library):
    scale = x.sum(0) / library.sum()
    values = (scale, (x**2).sum(0), library @ x)
    tensors = [torch.as_tensor(v) for v in values]
    return moment_dispersion(*tensors, float(library.sum()), float((library**2).sum()))


def test_moments_find_the_dispersion_of_simulated_counts():
    rng = np.random.default_rng(0)
    theta = np.array([0.2, 1.0, 5.0, 50.0])
    scale = np.array([0.4, 0.3, 0.2, 0.1])
    library = rng.lognormal(6, 0.4, size=50_000)
    mu = library[:, None] * scale
    x = rng.poisson(rng.gamma(theta, mu / theta)).astype(float)
    assert _moments(x, library).numpy() == pytest.approx(theta, rel=0.1)


def test_poisson_and_silent_genes_get_the_bound():
    rng = np.random.default_rng(0)
    library = np.full(5000, 10.0)
    underdispersed = np.tile([1.0, 1.0], 2500)
    x = np.stack([underdispersed, np.zeros(5000), rng.poisson(8.0, 5000)], axis=1)
    assert _moments(x, library).numpy()[:2] == pytest.approx([1e3, 1e3])


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
def test_an_untrained_decoder_starts_at_the_data(dispersion):
    torch.manual_seed(0)
    module = CountAutoencoder(n_input=4, n_batch=2, n_labels=1, dispersion=dispersion).eval()
    scale = torch.tensor([0.7, 0.2, 0.09, 0.01])
    theta = torch.tensor([0.1, 1.0, 10.0, 100.0])
    module.start_from_moments(scale, theta)
    with torch.no_grad():
        dist = module.decode(
            torch.zeros(64, 10), torch.full((64, 1), 1000.0).log(), torch.zeros(64, 1).long()
        )
    # the hidden layer still speaks a little
    assert (dist.mu.mean(0) / 1000).log().numpy() == pytest.approx(scale.log().numpy(), abs=1.0)
    assert dist.theta.expand(64, 4).mean(0).log().numpy() == pytest.approx(
        theta.log().numpy(), abs=0.3
    )


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-label", "gene-cell"])
def test_dispersion_parameters_are_those_that_move_the_dispersion(dispersion):
    module = CountAutoencoder(n_input=4, n_batch=2, n_labels=3, dispersion=dispersion)
    zeros = torch.zeros(8, 1).long()
    dist = module.decode(torch.randn(8, 10), torch.ones(8, 1), zeros, labels=zeros)
    dist.theta.sum().backward()
    own = {id(p) for p in module.dispersion_parameters()}
    found = {name: p for name, p in module.named_parameters() if id(p) in own}
    cell = {"decoder.px_r_decoder.weight", "decoder.px_r_decoder.bias"}
    assert set(found) == (cell if dispersion == "gene-cell" else {"px_r"})
    for name, parameter in found.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def _minibatch(n=32):
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((n, 4), 5.0), generator=generator) + 1
    zeros = torch.zeros(n, 1).long()
    return {"X": x, "batch": zeros, "labels": zeros}


def test_without_free_bits_it_is_scvi_s_autoencoder():
    losses = []
    for kind in (VAE, CountAutoencoder):
        torch.manual_seed(0)
        module = kind(n_input=4, n_batch=1, n_labels=1, gene_likelihood="nb")
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(5):
            loss = module(_minibatch(), loss_kwargs={"kl_weight": 0.3})[2].loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:5] == losses[5:]


def test_free_bits_hold_the_kl_term_of_each_latent_up():
    torch.manual_seed(0)
    module = CountAutoencoder(
        n_input=4, n_batch=1, n_latent=6, free_bits=0.3, gene_likelihood="nb"
    )
    with torch.no_grad():
        module.z_encoder.mean_encoder.weight[:2].mul_(4)
        module.z_encoder.mean_encoder.weight[4:].mul_(0.01)
    outputs, _, loss = module(_minibatch(), loss_kwargs={"kl_weight": 0.7})
    m, s = outputs["qz"].loc, outputs["qz"].scale
    kl = (0.5 * (m**2 + s**2 - 1) - s.log()).mean(0)
    assert 0 < (kl < 0.3).sum() < 6
    reconstruction = loss.reconstruction_loss_sum / 32
    torch.testing.assert_close(loss.loss, reconstruction + 0.7 * kl.clamp_min(0.3).sum())
    pull = torch.autograd.grad(loss.loss - reconstruction, m)[0]
    want = torch.where(kl > 0.3, 0.7 * m.detach() / 32, 0.0)
    torch.testing.assert_close(pull, want)
    # what is reported stays the KL itself
    torch.testing.assert_close(loss.kl_local_sum / 32, kl.sum())


def _spread_of_alike_cells(thinning):
    """Return how much decoded expression differs between cells that only chance tells apart."""
    torch.manual_seed(0)
    module = CountAutoencoder(n_input=20, n_batch=1, n_latent=4, gene_likelihood="poisson")
    options = {"inference_kwargs": {"thinning": thinning}, "loss_kwargs": {"kl_weight": 0.01}}
    x = torch.poisson(torch.full((200, 20), 3.0))
    zeros = torch.zeros(200, 1).long()
    minibatch = {"X": x, "batch": zeros, "labels": zeros}
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(300):
        loss = module(minibatch, **options)[2].loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        mean, _, log_library = module.encode(minibatch)
        return module.decode(mean, log_library, zeros).rate.log().std(0).mean()


def test_from_thinned_counts_latents_learn_less_of_chance():
    assert _spread_of_alike_cells(0.8) < 0.7 * _spread_of_alike_cells(0.0)


def test_thinned_counts_are_the_encoder_s_alone():
    torch.manual_seed(0)
    minibatch = _minibatch()
    module = CountAutoencoder(n_input=4, n_batch=1, gene_likelihood="nb")
    seen = []
    module.z_encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].expm1()))
    thinned = {"inference_kwargs": {"thinning": 0.8}}
    sizes = [module(minibatch, **thinned)[0]["library"] for _ in range(400)]
    shown = torch.stack(seen)
    x = minibatch["X"]
    assert not torch.equal(shown[0], shown[1])
    # in the mean the encoder sees what there is, and the decoder makes all of it
    torch.testing.assert_close(shown.mean(0), x, rtol=0.15, atol=0.5)
    assert all(torch.equal(size, x.sum(1, keepdim=True).log()) for size in sizes)
    module(minibatch)
    torch.testing.assert_close(seen[-1], x)


@pytest.mark.parametrize("log_theta", [-200.0, 200.0])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-label", "gene-cell"])
def test_dispersions_beyond_single_precision_have_a_likelihood(dispersion, log_theta):
    """As where one gene makes up nearly all of a cell."""
    torch.manual_seed(0)
    module = CountAutoencoder(n_input=4, n_batch=2, n_labels=2, dispersion=dispersion)
    own = module.decoder.px_r_decoder.bias if dispersion == "gene-cell" else module.px_r
    with torch.no_grad():
        own.fill_(log_theta)
    codes = torch.zeros(8, 1).long()
    dist = module.decode(torch.zeros(8, 10), torch.full((8, 1), 5.0), codes, labels=codes)
    off = -dist.log_prob(torch.tensor([100.0, 3.0, 0.0, 1.0]).expand(8, 4)).sum()
    off.backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert off.isfinite() and all(g.isfinite().all() for g in gradients)
