"""Types by latents: shares of what is drawn, against the probabilities they were planted with."""

import numpy as np
import pandas as pd
import pytest

from scldm.model._types import TypesByLatent

NAMES = ["T", "NK", "B"]


def planted(n=4000, seed=0):
    """Features, and types drawn from a logistic model of them."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 2)).astype(np.float32)
    logits = features @ np.array([[1.5, -0.5, 0.0], [0.0, 1.0, -1.0]]) + [1.0, -1.0, 0.0]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    codes = (p.cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)
    return features, p, pd.Series(pd.Categorical.from_codes(codes, NAMES))


def test_shares_are_those_that_were_planted():
    features, p, types = planted()
    rule = TypesByLatent().fit(features, types, np.random.default_rng(0))
    n = 500
    drawn = rule.draw(np.repeat(features[:40], n, axis=0), np.random.default_rng(1))
    assert list(drawn.categories) == NAMES
    shares = (np.asarray(drawn.codes).reshape(40, n, 1) == np.arange(3)).mean(axis=1)
    np.testing.assert_allclose(shares, p[:40], atol=0.1)
    assert np.abs(shares - p[:40]).mean() < 0.03
    # over all cells the shares are the data's own: a vote would make the common ones more common
    overall = pd.Series(rule.draw(features, np.random.default_rng(2))).value_counts(normalize=True)
    own = types.value_counts(normalize=True)
    np.testing.assert_allclose(overall[NAMES], own[NAMES], atol=0.025)
    again = rule.draw(features, np.random.default_rng(2))
    assert (pd.Series(again).value_counts(normalize=True)[NAMES] == overall[NAMES]).all()


def test_one_type_only():
    features, _, _ = planted(30)
    types = pd.Series(pd.Categorical(["NK"] * 30, categories=NAMES))
    rule = TypesByLatent().fit(features, types, np.random.default_rng(0))
    drawn = rule.draw(features[:7], np.random.default_rng(0))
    assert list(drawn) == ["NK"] * 7 and list(drawn.categories) == NAMES
    # one cell of it among missing ones
    types[1:] = None
    rule = TypesByLatent().fit(features, types, np.random.default_rng(0))
    assert list(rule.draw(features[:2], np.random.default_rng(0))) == ["NK", "NK"]


@pytest.mark.parametrize("left", [NAMES, ["T", "B"]])
def test_missing_types_and_types_without_cells_are_ignored(left):
    features, _, types = planted()
    known = types.isin(left).to_numpy()
    known[::3] = False
    lacking = types.where(known)
    drawn = TypesByLatent().fit(features, lacking, np.random.default_rng(0))
    alone = TypesByLatent().fit(features[known], types[known], np.random.default_rng(0))
    a, b = (rule.draw(features, np.random.default_rng(1)) for rule in (drawn, alone))
    assert (a.codes == b.codes).all() and set(a) == set(left)


def test_some_of_many_cells_are_enough(monkeypatch):
    monkeypatch.setattr("scldm.model._types._MOST_CELLS", 1000)
    features, p, types = planted()
    rule = TypesByLatent().fit(features, types, np.random.default_rng(0))
    drawn = rule.draw(features, np.random.default_rng(1))
    shares = (drawn.codes[:, None] == np.arange(3)).mean(axis=0)
    np.testing.assert_allclose(shares, p.mean(axis=0), atol=0.06)
