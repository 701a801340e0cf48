"""Random numbers: calls beside each other do not disturb each other, nor the user's own."""

import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch

import scldm
from scldm.model._cells import kept_randomness

from .conftest import cells, several

QUICK = {"seed": 0, "steps": 2}


def state():
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()


@pytest.fixture(scope="module")
def new():
    return cells(60, seed=1)


@pytest.fixture(scope="module")
def three():
    return several(3, seed=1)


def scores(a, b):
    return scldm.metrics.evaluate(a, b, seed=0, n_pcs=5)


CALLS = {
    "generate": lambda m, mm, new, three: m.generate(3, **QUICK),
    "predict_perturbation": lambda m, mm, new, three: m.predict_perturbation(
        None, "KLF1", 1.0, indices=[0, 3], **QUICK
    ),
    "predict_trajectory": lambda m, mm, new, three: m.predict_trajectory(
        None, [3.0], indices=[0, 3], **QUICK
    ),
    "impute_region": lambda m, mm, new, three: m.impute_region(
        None, [[0.0, 0.0]], batch=0, **QUICK
    ),
    "counterfactual": lambda m, mm, new, three: m.counterfactual(
        None, [0, 1], cell_type="B", **QUICK
    ),
    "impute_genes": lambda m, mm, new, three: m.impute_genes(
        None, new, genes=["gene_0"], seed=0, train_kwargs={"max_epochs": 1, "max_steps": 2}
    ),
    "MultiLDM.generate": lambda m, mm, new, three: mm.generate(3, **QUICK),
    "MultiLDM.translate": lambda m, mm, new, three: mm.translate(
        three, source="rna", target=["protein", "atac"], **QUICK
    ),
    "MultiLDM.impute": lambda m, mm, new, three: mm.impute(three, **QUICK),
    "MultiLDM.get_latent_representation": lambda m, mm, new, three: mm.get_latent_representation(
        data=three
    ),
    "evaluate": lambda m, mm, new, three: scores(m.adata, new),
    "pl.umap": lambda m, mm, new, three: scldm.pl.umap(m.adata, new, show=False),
    "pl.compare": lambda m, mm, new, three: scldm.pl.mean_variance(m.adata, new, show=False),
    "simulate_multiome": lambda m, mm, new, three: scldm.data.simulate_multiome(20, 8, 4, 6),
    "simulate_branching": lambda m, mm, new, three: scldm.data.simulate_branching(),
    "simulate_tissue": lambda m, mm, new, three: scldm.data.simulate_tissue(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_user_s_random_state_stays(model, multi, new, three, call):
    random.seed(1)
    before = state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(model, multi, new, three)
    assert state() == before


def test_without_a_seed_only_one_number_of_torch_is_taken(model):
    torch.manual_seed(0)
    torch.randint(2**31, ())
    expected = torch.get_rng_state()
    torch.manual_seed(0)
    model.generate(3)
    assert torch.equal(torch.get_rng_state(), expected)


def test_threads_do_not_disturb_each_other(model, multi, three):
    def one():
        made = [model.generate(600, seed=s) for s in range(4)]
        made += [
            model.predict_perturbation(None, "KLF1", 1.0, indices=[0, 3], seed=s, steps=2)
            for s in range(8)
        ]
        return [x.X.toarray() for x in made]

    def other():
        made = [multi.generate(600, seed=s) for s in range(4)]
        made += [multi.translate(three, source="rna", target="protein", seed=s) for s in range(8)]
        return [(x["rna"] if hasattr(x, "mod") else x).X.toarray() for x in made]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = [one(), other(), one()]
        before = state()
        with ThreadPoolExecutor(3) as pool:
            together = [job.result() for job in [pool.submit(f) for f in (one, other, one)]]
    assert state() == before
    for apart, beside in zip(alone, together, strict=True):
        for a, b in zip(apart, beside, strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_thread_at_a_time_takes_the_random_state():
    """Else the one that leaves last puts back what the other had drawn by then."""
    first_in, first_out = Event(), Event()

    def first():
        with kept_randomness(torch.device("cpu")):
            torch.rand(1)
            first_in.set()
            # time for the second to come in, if it could
            first_out.wait(0.5)
        first_out.set()

    def second():
        first_in.wait()
        with kept_randomness(torch.device("cpu")):
            first_out.wait()

    before = state()
    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(first), pool.submit(second)]:
            job.result()
    assert state() == before
