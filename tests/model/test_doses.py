"""Combinations whose members have different doses."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scldm import SCLDM
from scldm.model._conditions import Dose
from scldm.model._doses import levels, written
from scldm.model._pairing import compared
from scldm.model._perturbations import PerturbationSet
from scldm.model._shifts import Shifts

N_GENES = 30
OF_A, OF_B = slice(0, 8), slice(8, 16)


def condition_of(*labels):
    dose = Dose("dose", "amount", 0.0, 1.0, "float64")
    return PerturbationSet("drug", ["control", *labels], "control", dose)


def frame_of(*pairs, each=1):
    rows = [pair for pair in pairs for _ in range(each)]
    return pd.DataFrame(
        {
            "perturbation": pd.Categorical([label for label, _ in rows]),
            "dose": pd.Series([dose for _, dose in rows], dtype=object).infer_objects(),
        }
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (3, (3.0,)),
        ("3", (3.0,)),
        ("1e+10", (1e10,)),
        ("1+10", (1.0, 10.0)),
        ("0.5+2+1", (0.5, 2, 1)),
    ],
)
def test_numbers_and_text_say_doses(value, found):
    assert levels("dose", value, "+") == found


@pytest.mark.parametrize("value", ["much", "1+", "1+much", None, (1, 2)])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match=r"`dose` has .* is not a number"):
        levels("dose", value, "+")


def test_equal_doses_are_one_number():
    assert written((2.0, 2.0), "+") == 2.0
    assert written((1.0, 0.25), "_") == "1_0.25"


def test_doses_go_with_members_in_the_order_of_the_label():
    condition = condition_of("A", "B", "A+B")
    assert condition.doses_of("B+A", "1+10") == {"B": 1.0, "A": 10.0}
    assert condition.doses_of("A+B", 3) == {"A": 3.0, "B": 3.0}
    assert condition.doses_of("control+A", "0+5") == {"A": 5.0}
    assert condition.doses_of("control", 0) == {}
    assert condition.keyed("B+A", "1+10") == ("A+B", (10.0, 1.0))
    assert condition.keyed("B+A", "10+10") == ("A+B", 10.0)


@pytest.mark.parametrize(
    ("label", "dose"), [("A", "1+2"), ("A+B", "1+2+3"), ("control", "1+2"), ("A+A", "1+2")]
)
def test_as_many_doses_as_members(label, dose):
    with pytest.raises(ValueError, match=r"`dose='.*'` does not go with `perturbation='"):
        condition_of("A", "B").doses_of(label, dose)


def test_the_network_sees_each_member_with_its_dose():
    condition = condition_of("A", "B", "A+B")
    frame = frame_of(("A+B", "1+10"), ("A+B", 1.0), ("B", 10.0), ("control", 0.0))
    encoded = condition.encode(frame)
    scale = np.arcsinh([1.0, 10.0])
    np.testing.assert_allclose(encoded[0], [0, 1, *scale], rtol=1e-6)
    np.testing.assert_allclose(encoded[1], [0, 1, scale[0], scale[0]], rtol=1e-6)
    np.testing.assert_allclose(encoded[2], [1, -1, scale[1], scale[1]], rtol=1e-6)
    np.testing.assert_allclose(encoded[3], [-1, -1, 0, 0])


def test_doses_that_were_seen():
    condition = condition_of("A", "B", "C", "A+B")
    training = frame_of(
        ("control", 0.0), ("A", 1.0), ("B", 5.0), ("A+B", "1+5"), ("C", 1.0), ("C", 2.0)
    )
    assert condition.known_doses("A+B", training) == ["1+5"]
    assert condition.known_doses("C", training) == [1.0, 2.0]
    # each drug of a new combination has one dose of its own
    unseen = frame_of(("control", 0.0), ("A", 1.0), ("B", 5.0))
    assert condition.known_doses("A+B", unseen) == ["1+5"]
    assert condition.known_doses("A+C", training) == [1.0, 2.0]


# -- latent arithmetic --------------------------------------------------------------------------


def shifts_of(*pairs, change, each=30):
    """Shifts learned from cells without noise."""
    frame = frame_of(("control", 0.0), *pairs, each=each)
    labels = {label for label, _ in pairs}
    condition = condition_of(*sorted(labels))
    x = np.array(
        [change(condition.doses_of(*pair)) for pair in frame.itertuples(index=False)], float
    )
    return Shifts.fit(x, compared(frame, condition, []), condition)


def additive(doses):
    return [np.log1p(doses.get("A", 0)), np.log1p(doses.get("B", 0))]


def with_synergy(doses):
    a, b = additive(doses)
    return [a, b + 0.5 * (a > 0) * (b > 0)]


SINGLES = [(drug, dose) for drug in "AB" for dose in (1.0, 3.0, 10.0)]


def test_members_of_an_unseen_combination_have_doses_of_their_own():
    shifts = shifts_of(*SINGLES, change=additive)
    np.testing.assert_allclose(shifts.at("A+B", (1.0, 10.0)), np.log1p([1, 10]), atol=1e-9)
    np.testing.assert_allclose(shifts.at("B+A", (1.0, 10.0)), np.log1p([1, 10]), atol=1e-9)
    # the lowest dose of either member bounds what is known
    assert shifts.known_share("A+B", (10.0, 0.5)) == shifts.known_share("B", 0.5)
    assert shifts.known_share("A+B", (10.0, 1.0)) == 1


def test_a_combination_seen_at_some_doses_is_met_there_and_between():
    seen = [("A+B", "1+10"), ("A+B", "10+1"), ("A+B", 3.0)]
    shifts = shifts_of(*SINGLES, *seen, change=with_synergy)
    for doses in ((1.0, 10.0), (10.0, 1.0)):
        np.testing.assert_allclose(shifts.at("A+B", doses), np.log1p(doses) + [0, 0.5], atol=1e-9)
    np.testing.assert_allclose(shifts.at("A+B", 3.0), np.log1p([3, 3]) + [0, 0.5], atol=1e-9)
    between = shifts.at("A+B", (2.0, 8.0))
    single = shifts_of(*SINGLES, change=additive).at("A+B", (2.0, 8.0))
    assert 0 < between[1] - single[1] < 0.5
    np.testing.assert_allclose(between[0], single[0], atol=1e-9)


def test_with_a_member_at_dose_zero_the_other_remains():
    shifts = shifts_of(*SINGLES, ("A+B", "1+10"), change=with_synergy)
    np.testing.assert_allclose(shifts.at("A+B", (3.0, 0.0)), shifts.at("A", 3.0), atol=1e-9)
    steps = [shifts.at("A+B", (3.0, b))[1] for b in np.geomspace(1e-6, 10, 200)]
    assert np.abs(np.diff(steps)).max() < 0.1


def test_a_combination_whose_members_were_not_seen_alone():
    shifts = shifts_of(("A+B", "1+10"), ("A+B", "10+1"), change=additive)
    np.testing.assert_allclose(shifts.at("A+B", (1.0, 10.0)), np.log1p([1, 10]), atol=1e-9)
    middle = shifts.at("A+B", (3.0, 3.0))
    assert (middle > np.log1p(1)).all()
    assert (middle < np.log1p(10)).all()
    plain = shifts.to_plain()
    again = Shifts.from_plain(shifts.perturbation, plain)
    np.testing.assert_array_equal(again.at("A+B", (2.0, 2.0)), shifts.at("A+B", (2.0, 2.0)))


def test_combinations_at_different_doses_teach_how_far_from_sums_they_are():
    half = shifts_of(
        *SINGLES, ("A+B", "1+10"), ("A+C", "10+1"), *[("C", d) for _, d in SINGLES[:3]],
        change=lambda d: np.multiply([*additive(d), np.log1p(d.get("C", 0))], 0.5 if len(d) > 1 else 1),
    )  # fmt: skip
    assert half.interaction < 0.75
    assert shifts_of(*SINGLES, ("A+B", "1+10"), change=additive).interaction == pytest.approx(1)


# -- from raw counts to predictions --------------------------------------------------------------


def cells_with_doses(seed=0, each=40):
    """Counts in which A and B each raise genes of their own, more at higher doses."""
    rng = np.random.default_rng(seed)
    pairs = [
        *[("control", "0")] * 3,
        *[(drug, str(dose)) for drug in "AB" for dose in (1, 10)],
        *[("A+B", "1"), ("A+B", "10"), ("B+A", "10+1")],
    ]
    rows = [pair for pair in pairs for _ in range(each)]
    log_rate = np.full((len(rows), N_GENES), 1.5)
    for row, (label, text) in enumerate(rows):
        parts, doses = label.split("+"), [float(d) for d in text.split("+")]
        for drug, dose in zip(parts, doses * (len(parts) // len(doses)), strict=True):
            log_rate[row, {"A": OF_A, "B": OF_B}.get(drug, slice(0))] += 0.6 * np.log1p(dose)
    counts = rng.poisson(np.exp(log_rate)).astype(np.float32)
    obs = pd.DataFrame(rows, columns=["drug", "amount"])
    obs.index = [f"cell {i}" for i in range(len(obs))]
    adata = ad.AnnData(sparse.csr_matrix(counts), obs)
    adata.var_names = [f"gene {i}" for i in range(N_GENES)]
    return adata


@pytest.fixture(scope="module")
def trained():
    adata = cells_with_doses()
    SCLDM.setup_anndata(adata, perturbation_key="drug", dose_key="amount")
    model = SCLDM(adata, n_latent=4, n_hidden=32)
    quiet = {"enable_progress_bar": False}
    model.train_autoencoder(200, **quiet)
    model.train_diffusion(max_steps=100, **quiet)
    model.train_perturbation(max_steps=50, **quiet)
    return model


def raised(model, made):
    """Return by how much the genes of A and of B rise in log mean over control cells."""
    control = model.adata[(model.adata.obs["drug"] == "control").to_numpy()]
    change = np.log(made.X.mean(axis=0)) - np.log(control.X.mean(axis=0))
    change = np.asarray(change).ravel()
    return change[OF_A].mean(), change[OF_B].mean()


@pytest.mark.parametrize("method", ["flow", "arithmetic"])
def test_a_pair_of_doses_that_no_cell_had(trained, method):
    """``A+B`` was seen at 1 and 10, and with A at 1 and B at 10, but not the other way round."""
    made = trained.predict_perturbation(
        perturbation="A+B", dose="10+1", method=method, n_samples=3, seed=0
    )
    of_a, of_b = raised(trained, made)
    # the genes' own log changes, a little less as totals rise
    np.testing.assert_allclose([of_a, of_b], 0.6 * np.log1p([10, 1]), atol=0.15)
    assert set(made.obs["amount"]) == {"10+1"}
    assert set(made.obs["drug"]) == {"A+B"}
    # the same question, members in the other order
    again = trained.predict_perturbation(
        perturbation="B+A", dose="1+10", method=method, n_samples=3, seed=0
    )
    np.testing.assert_array_equal(again.X.toarray(), made.X.toarray())


def test_the_column_of_the_user_stays_text(trained):
    assert trained.adata.obs["amount"].iloc[-1] == "10+1"
    made = trained.generate(20, perturbation="B+A", dose="10+1", seed=0)
    # members in the order in which the data first have them
    assert set(zip(made.obs["drug"], made.obs["amount"], strict=True)) == {("A+B", "1+10")}
    assert set(trained.generate(5, perturbation="A", dose=1, seed=0).obs["amount"]) == {"1"}
    drawn = trained.generate(200, seed=0)
    assert set(drawn.obs["amount"]) <= {"0", "1", "10", "1+10"}
    SCLDM.setup_anndata(drawn, perturbation_key="drug", dose_key="amount")


def test_a_saved_model_knows_doses_of_members(trained, tmp_path):
    trained.save(tmp_path / "model", save_anndata=True)
    again = SCLDM.load(tmp_path / "model")
    settings = {"perturbation": "A+B", "dose": ["3+10"] * 120, "seed": 3}
    np.testing.assert_array_equal(
        again.predict_perturbation(**settings).X.toarray(),
        trained.predict_perturbation(**settings).X.toarray(),
    )


def test_screens_and_counterfactuals_take_doses_of_members(trained):
    table = trained.screen(
        perturbations=["A+B"],
        doses=[1, "1+10", "10+1"],
        target=["gene 0", "gene 1"],
        show_progress=False,
        seed=0,
    )
    # genes of A rise most with most of A
    assert table["dose"].tolist()[0] == "10+1"
    assert set(table["dose"]) == {"1", "1+10", "10+1"}
    control = trained.adata[(trained.adata.obs["drug"] == "control").to_numpy()].copy()
    changed = trained.counterfactual(control, perturbation="B+A", dose="1+10", seed=0)
    assert set(changed.obs["amount"]) == {"10+1"}


def test_clear_errors(trained):
    with pytest.raises(ValueError, match=r"`dose='1\+2'` does not go with `perturbation='A'`"):
        trained.predict_perturbation(perturbation="A", dose="1+2")
    with pytest.raises(ValueError, match=r"needs a `dose` too: .*\[1.0, 10.0, '1\+10'\]"):
        trained.predict_perturbation(perturbation="B+A")
    adata = cells_with_doses()
    adata.obs["amount"] = adata.obs["amount"].replace("10+1", "10+some")
    with pytest.raises(ValueError, match=r"`dose_key='amount'` has '10\+some', which is not"):
        SCLDM.setup_anndata(adata, perturbation_key="drug", dose_key="amount")
    adata.obs["amount"] = adata.obs["amount"].replace("10+some", "10+1+3")
    with pytest.raises(ValueError, match=r"`dose='10\+1\+3'` does not go with"):
        SCLDM.setup_anndata(adata, perturbation_key="drug", dose_key="amount")


def test_doses_of_members_where_only_numbers_were_registered():
    adata = cells_with_doses()
    adata = adata[adata.obs["amount"] != "10+1"].copy()
    adata.obs["amount"] = adata.obs["amount"].astype(float)
    SCLDM.setup_anndata(adata, perturbation_key="drug", dose_key="amount")
    model = SCLDM(adata, n_latent=2, n_hidden=16)
    quiet = {"enable_progress_bar": False}
    model.train_autoencoder(2, **quiet)
    model.train_diffusion(max_steps=2, **quiet)
    made = model.generate(4, perturbation="A+B", dose=["1+10", 1, 10, "10+1"], seed=0)
    assert made.obs["amount"].tolist() == ["1+10", "1", "10", "10+1"]
    assert model.generate(4, perturbation="A+B", dose=10, seed=0).obs["amount"].dtype == float


# -- what a cold reading found -------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["+", "_", "-", "|", ",", " + ", " ", "and"])
@pytest.mark.parametrize("doses", [(1.0, 10.0), (1e16, 1.0), (1e-5, 1 / 3), (0.0, 2.5, 1e-300)])
def test_what_is_written_is_read_again(separator, doses):
    text = written(doses, separator)
    assert levels("dose", text, separator) == doses


@pytest.mark.parametrize("separator", [".", "e", "1"])
def test_separators_that_may_stand_within_a_number_are_refused(separator):
    with pytest.raises(ValueError, match=r"`perturbation_separator=.*may stand within a number"):
        levels("dose", f"1{separator}10", separator)


def test_another_separator_from_the_column_to_the_result():
    adata = cells_with_doses()
    for column in adata.obs:
        adata.obs[column] = adata.obs[column].str.replace("+", "_")
    SCLDM.setup_anndata(
        adata, perturbation_key="drug", dose_key="amount", perturbation_separator="_"
    )
    model = SCLDM(adata, n_latent=2, n_hidden=8)
    frame = model._read_conditions(adata)
    assert set(frame["dose"]) == {0.0, 1.0, 10.0, "1_10"}


def test_doses_need_the_label_whose_order_they_follow(trained):
    """The frame's spelling of a combination need not be that of the cells in ``obs``."""
    own = trained.adata[(trained.adata.obs["amount"] == "10+1").to_numpy()].copy()
    assert set(own.obs["drug"]) == {"B+A"}
    with pytest.raises(ValueError, match=r"`dose='10\+1'` needs a `perturbation` too"):
        trained.counterfactual(own, dose="10+1", seed=0)
    with pytest.raises(ValueError, match=r"`dose='10\+1'` needs a `perturbation` too"):
        trained.generate(3, dose="10+1", seed=0)
    # to itself, at the dose it has
    same = trained.counterfactual(own, perturbation="B+A", seed=0)
    assert set(zip(same.obs["drug"], same.obs["amount"], strict=True)) == {("A+B", "1+10")}


def test_without_a_perturbation_there_is_no_dose(trained):
    made = trained.generate(5, perturbation=None, seed=0)
    assert made.obs["amount"].isna().all()
    assert made.obs["drug"].isna().all()


def test_the_control_among_combinations_keeps_its_dose(trained):
    made = trained.generate(3, perturbation=["A+B", "B+A", "control"], dose="1+10", seed=0)
    assert made.obs["amount"].tolist() == ["1+10", "10+1", "0"]
    with pytest.raises(ValueError, match=r"`dose='1\+10'` does not go with `perturbation='A'`"):
        trained.screen(perturbations=["A+B", "A"], doses=["1+10", 1], target=["gene 0"])


def test_doses_come_back_as_the_user_spells_them():
    adata = cells_with_doses()
    spelt = {"0": "0.0", "1": "1.0", "10": "10.0", "10+1": "10.0+1.0"}
    adata.obs["amount"] = adata.obs["amount"].map(spelt)
    both = (adata.obs["drug"] == "A+B").to_numpy()
    adata.obs.loc[both, "amount"] = [f"{x}+{x}" for x in adata.obs.loc[both, "amount"]]
    SCLDM.setup_anndata(adata, perturbation_key="drug", dose_key="amount")
    model = SCLDM(adata, n_latent=2, n_hidden=8)
    new = adata.copy()
    frame = model._read_conditions(adata)
    for condition in model.conditions:
        condition.write(frame, new)
    swapped = adata.obs["drug"] == "B+A"
    assert (new.obs["amount"].astype(str) == adata.obs["amount"])[~swapped].all()
    assert set(new.obs["amount"][swapped]) == {"1.0+10.0"}


@pytest.mark.parametrize("kind", ["category", "object", "Int64", "int64"])
def test_numbers_are_numbers_in_any_column(kind):
    adata = cells_with_doses()
    adata = adata[adata.obs["amount"] != "10+1"].copy()
    adata.obs["amount"] = adata.obs["amount"].astype(int).astype(kind)
    SCLDM.setup_anndata(adata, perturbation_key="drug", dose_key="amount")
    model = SCLDM(adata, n_latent=2, n_hidden=8)
    frame = model._read_conditions(adata)
    assert frame["dose"].dtype == float
    new = adata.copy()
    for condition in model.conditions:
        condition.write(frame, new)
    assert new.obs["amount"].dtype == np.int64


def test_doses_of_members_need_a_perturbation():
    adata = cells_with_doses()
    with pytest.raises(
        ValueError, match=r"`dose_key='amount'` has '10\+1', which is not a number\.$"
    ):
        SCLDM.setup_anndata(adata, dose_key="amount")


def test_between_equal_and_nearly_equal_doses_there_is_no_jump():
    seen = [("A+B", 1.0), ("A+B", "1+10"), ("A+B", "10+1"), ("A+B", "10+9")]
    for more in ([], seen[:1], seen, [("A+B", 3.0), ("A+B", "1+10")]):
        shifts = shifts_of(*SINGLES, *more, change=with_synergy)
        for dose in (0.5, 1.0, 3.0, 5.0, 10.0):
            near = shifts.at("A+B", (dose, dose * (1 + 1e-6)))
            np.testing.assert_allclose(shifts.at("A+B", dose), near, atol=1e-3)
    # where a pair of nearly equal doses was seen, equal ones are like it
    found = shifts_of(*SINGLES, *seen, change=with_synergy).at("A+B", 10.0)
    np.testing.assert_allclose(found, with_synergy({"A": 10, "B": 10}), atol=0.1)


def test_a_third_member_at_dose_zero_is_not_there():
    singles = [(drug, dose) for drug in "ABC" for dose in (1.0, 10.0)]
    shifts = shifts_of(*singles, ("A+B", "1+10"), ("A+B", "10+1"), change=with_synergy)
    np.testing.assert_allclose(
        shifts.at("A+B+C", (1.0, 10.0, 0.0)), shifts.at("A+B", (1.0, 10.0)), atol=1e-9
    )
    nothing = shifts_of(("A+B", "1+10"), ("A+B", "10+1"), change=additive)
    np.testing.assert_allclose(nothing.at("A+B", (0.0, 0.0)), 0, atol=1e-9)


def test_a_question_is_asked_once_whatever_the_number_of_cells(monkeypatch):
    adata = cells_with_doses()
    adata = adata[adata.obs["amount"] != "10+1"].copy()
    SCLDM.setup_anndata(adata, perturbation_key="drug")
    model = SCLDM(adata, n_latent=2, n_hidden=8)
    quiet = {"enable_progress_bar": False}
    model.train_autoencoder(1, **quiet)
    model.train_diffusion(max_steps=1, **quiet)
    model.train_perturbation(max_steps=1, **quiet)
    asked = []
    plain = Shifts.at
    monkeypatch.setattr(Shifts, "at", lambda self, *item: asked.append(item) or plain(self, *item))
    model.predict_perturbation(perturbation="A", method="arithmetic", n_samples=3, seed=0)
    assert len(asked) == 1


def test_cells_on_disk_have_doses_of_members(trained, tmp_path):
    settings = {"perturbation": ["A+B", "B+A"] * 150, "dose": "1+10", "seed": 2}
    kept = ad.read_h5ad(trained.generate(out=tmp_path / "cells.h5ad", **settings))
    assert kept.obs["amount"].tolist() == ["1+10", "10+1"] * 150
