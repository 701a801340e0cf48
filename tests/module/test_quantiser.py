"""Codebooks, held against hand computations."""

import numpy as np
import pytest
import torch

from scldm.module import ProductQuantiser


def _started(n_codes=3, decay=0.9, **kwargs):
    """Two groups of two dimensions, whose codes lie apart and are used alike."""
    quantiser = ProductQuantiser(4, n_codes, 2, decay, **kwargs)
    codes = torch.arange(2.0 * n_codes * 2).reshape(2, n_codes, 2) * 10
    quantiser.codes.copy_(codes)
    quantiser.usage.fill_(1 / n_codes)
    quantiser.sums.copy_(codes / n_codes)
    return quantiser


def _latents(n=50):
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(0)) * 120


def test_codes_follow_the_running_means_of_their_cells():
    """The update of van den Oord et al. (2017), appendix A.1, cell by cell."""
    quantiser, z = _started(), _latents()
    codes, n = quantiser.codes.numpy().copy(), len(z)
    want = codes.copy()
    for g in range(2):
        part = z.numpy()[:, 2 * g : 2 * g + 2]
        nearest = [int(np.argmin(((codes[g] - row) ** 2).sum(1))) for row in part]
        for k in range(3):
            mine = part[[i for i in range(n) if nearest[i] == k]]
            usage = 0.9 / 3 + 0.1 * len(mine) / n
            sums = 0.9 * codes[g, k] / 3 + 0.1 * mine.sum(0) / n
            want[g, k] = sums / usage
    quantiser.train()(z)
    np.testing.assert_allclose(quantiser.codes.numpy(), want, rtol=1e-5)
    assert not np.allclose(want, codes)
    torch.testing.assert_close(quantiser.usage.sum(1), torch.ones(2))


def test_codes_end_at_the_means_of_clusters():
    torch.manual_seed(0)
    centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    quantiser = ProductQuantiser(2, 3, 2, decay=0.9).train()
    for _ in range(300):
        z = centres[torch.randint(3, (64,))] + 0.3 * torch.randn(64, 2)
        quantiser(z)
    found = quantiser.eval()(centres)
    torch.testing.assert_close(found, centres, rtol=0, atol=0.2)


def test_codes_start_at_cells_of_the_first_minibatch():
    quantiser, z = ProductQuantiser(4, 8, 2, decay=1.0).train(), _latents()
    quantiser(z)
    for group in range(2):
        cells = z[:, 2 * group : 2 * group + 2]
        assert (quantiser.codes[group].unsqueeze(1) == cells).all(2).any(1).all()
    assert len(quantiser.codes[0].unique(dim=0)) > 4


def test_a_dead_code_is_put_where_a_cell_lies_and_a_live_one_is_not():
    quantiser = _started(revive_below=0.1)
    quantiser.usage[0, 1] = 0.1 / 3 - 1e-4
    quantiser.usage[0, 2] = 0.1 / 3 + 1e-4
    before, z = quantiser.codes.clone(), _latents()
    quantiser._revive(z)
    assert (z[:, :2] == quantiser.codes[0, 1]).all(1).any()
    assert quantiser.usage[0, 1] == pytest.approx(1 / 3)
    torch.testing.assert_close(quantiser.sums[0, 1] / quantiser.usage[0, 1], quantiser.codes[0, 1])
    before[0, 1] = quantiser.codes[0, 1]
    assert torch.equal(quantiser.codes, before)


def test_a_code_that_is_never_chosen_comes_back():
    quantiser = _started().train()
    quantiser.codes[0, 2] = 1e6
    quantiser.sums[0, 2] = 1e6 / 3
    for _ in range(40):
        quantiser(_latents())
    assert quantiser.codes[0, 2].max() < 200


def test_nothing_moves_outside_of_training():
    quantiser = _started().eval()
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    quantiser(_latents())
    for name, value in quantiser.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_codes_are_their_own_nearest():
    torch.manual_seed(0)
    quantiser = ProductQuantiser(6, 16, 3).train()
    for _ in range(5):
        quantiser(torch.randn(100, 6))
    quantiser.eval()
    once = quantiser(torch.randn(200, 6))
    assert torch.equal(quantiser(once), once)
    assert torch.equal(quantiser.lookup(quantiser.nearest(once)), once)


def test_the_gradient_passes_straight_through():
    quantiser, z = _started().train(), _latents().requires_grad_()
    quantised = quantiser(z)
    weights = torch.randn(quantised.shape)
    (weights * quantised.square()).sum().backward()
    torch.testing.assert_close(z.grad, 2 * weights * quantised.detach())
    assert not any(value.requires_grad for value in quantiser.buffers())


def test_groups_that_do_not_divide_the_latent():
    with pytest.raises(ValueError, match="`code_dims=3` does not divide `n_latent=4`"):
        ProductQuantiser(4, code_dims=3)
