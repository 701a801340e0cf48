"""What can be asked of ``generate``: samplers, guidance, and what to move away from."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from scldm.diffusion import SAMPLERS, Adaptive, Churn
from scldm.model._order import checked_guidance, checked_sampler
from scldm.model._request import Request

FREE = {
    "batch": None,
    "perturbation": None,
    "time": None,
    "spatial": None,
    "sex": None,
    "age": None,
}


def _latents(model, n=400, seed=0, **arguments):
    return model.sample_latent(n, seed=seed, **{**FREE, **arguments})[0]


@pytest.fixture(scope="module")
def probabilities(trained):
    """Returns the probability of each type for latents."""
    z = trained.get_latent_representation()
    return LogisticRegression(max_iter=1000).fit(z, trained.adata.obs["type"]).predict_log_proba


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_makes_the_type_that_is_asked_for(trained, probabilities, sampler):
    z = _latents(trained, 100, sampler=sampler, cell_type="T")
    # log probabilities of B, NK and T
    assert (probabilities(z).argmax(1) == 2).mean() > 0.85


def test_a_sampler_takes_its_own_number_of_steps(trained):
    for name, kind in SAMPLERS.items():
        record = trained.generate(3, sampler=name, seed=0).uns["scldm"]
        assert record.get("steps") == (None if kind.chooses_steps else kind.default_steps), name
        assert record["sampler"] == name


def test_an_adaptive_sampler_with_tolerances(trained):
    loose, tight = (_latents(trained, 50, sampler=Adaptive(tol, tol)) for tol in (1e-2, 1e-5))
    exact = _latents(trained, 50, sampler="heun", steps=100)
    assert np.abs(tight - exact).mean() < np.abs(loose - exact).mean()
    assert np.abs(tight - exact).mean() < 0.02


def test_a_scale_of_one_is_no_guidance(trained):
    plain = _latents(trained, 50, cell_type="T")
    everything = dict.fromkeys(["cell_type", *FREE], 1.0)
    np.testing.assert_array_equal(plain, _latents(trained, 50, cell_type="T", guidance_scale=1))
    # of one condition, with the others free, it is the conditional model again
    alone = _latents(trained, 50, cell_type="T", guidance_scale={"cell_type": 1.0})
    np.testing.assert_allclose(plain, alone, atol=1e-4)
    assert set(everything) == {c.name for c in trained.conditions}


def test_guidance_makes_cells_more_typical(trained, probabilities):
    weak, plain, strong = (
        _latents(trained, cell_type="NK", guidance_scale=scale) for scale in (0.0, 1.0, 3.0)
    )
    typical = [probabilities(z)[:, 1].mean() for z in (weak, plain, strong)]
    assert typical[0] < typical[1] < typical[2]
    # a scale of zero is the model without conditions
    np.testing.assert_allclose(weak, _latents(trained, cell_type=None), atol=1e-5)
    # at a scale for one condition alone nothing else is strengthened
    named = _latents(trained, cell_type="NK", guidance_scale={"cell_type": 3.0})
    np.testing.assert_allclose(named, strong, atol=1e-3)


def test_several_scales_compose_conditions(trained, probabilities):
    scales = {"cell_type": 1.5, "perturbation": 1.5}
    given = {"cell_type": "T", "perturbation": "TP53", "dose": 10.0}
    both = _latents(trained, guidance_scale=scales, **given)
    assert probabilities(both)[:, 2].mean() > -0.2
    effect = _latents(trained, guidance_scale={**scales, "perturbation": 0.0}, **given)
    # without the weight of the perturbation the cells are of the type alone
    type_only = _latents(trained, guidance_scale={"cell_type": 1.5}, cell_type="T")
    np.testing.assert_allclose(effect, type_only, atol=1e-3)
    assert np.abs(both.mean(0) - effect.mean(0)).max() > 0.3
    record = trained.generate(3, seed=0, guidance_scale=scales).uns["scldm"]
    assert record["guidance_scale"] == scales
    json.dumps(record)


def test_outside_the_interval_there_is_no_guidance(trained):
    plain = _latents(trained, 60, cell_type="NK")
    settings = {"cell_type": "NK", "guidance_scale": 3.0}
    always = _latents(trained, 60, **settings)
    late = _latents(trained, 60, guidance_interval=(0.0, 0.3), **settings)
    never = _latents(trained, 60, guidance_interval=(0.33, 0.34), **settings)
    np.testing.assert_allclose(never, plain, atol=1e-5)
    assert 0 < np.abs(late - plain).mean() < np.abs(always - plain).mean()


def test_rescaling_takes_spread_back(trained):
    settings = {"cell_type": "NK", "guidance_scale": 4.0}
    guided, half, back = (
        np.abs(_latents(trained, guidance_rescale=share, **settings)).mean()
        for share in (0.0, 0.5, 1.0)
    )
    assert guided > half > back


def test_cells_move_away_from_what_is_negative(trained, probabilities):
    settings = {"cell_type": "T", "guidance_scale": 2.5}
    plain = _latents(trained, **settings)
    away = _latents(trained, negative={"cell_type": "NK"}, **settings)
    each = _latents(trained, negative={"cell_type": ["NK"] * 400}, **settings)
    np.testing.assert_array_equal(away, each)
    # T against NK, in log odds
    odds = [np.diff(probabilities(z)[:, 1:]).mean() for z in (plain, away)]
    assert odds[1] > odds[0]
    new = trained.generate(3, seed=0, negative={"cell_type": "NK"}, **settings)
    record = new.uns["scldm"]
    assert (record["guidance_interval"], record["guidance_rescale"]) == ([0.0, 1.0], 0.0)
    assert record["negative"] == {"cell_type": "NK"}
    json.dumps(record)


@pytest.mark.parametrize("pair", [("CEBPA+KLF1", "TP53"), ("TP53", "CEBPA+KLF1")])
def test_combinations_of_any_size_can_be_negative(trained, pair):
    asked, negative = pair
    settings = {"perturbation": asked, "dose": 1.0, "guidance_scale": 2.0, "seed": 0}
    plain = trained.sample_latent(50, **settings)[0]
    away = trained.sample_latent(50, negative={"perturbation": negative}, **settings)[0]
    assert np.abs(away - plain).mean() > 0.01


def test_options_of_a_sampler_are_recorded(trained):
    record = trained.generate(3, seed=0, sampler=Churn(churn=2.5)).uns["scldm"]
    assert record["sampler_options"]["churn"] == 2.5


def test_guided_cells_do_not_depend_on_the_batch_size(trained):
    settings = {
        "seed": 1,
        "guidance_scale": {"cell_type": 2.0, "batch": 1.5},
        "negative": {"cell_type": "NK"},
        "sampler": "churn",
    }
    one, other = (trained.generate(300, batch_size=size, **settings) for size in (1, 1000))
    assert (one.X != other.X).nnz == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"guidance_scale": np.inf}, "`guidance_scale=inf` must be a finite number"),
        ({"guidance_scale": True}, "`guidance_scale=True` must be a finite number"),
        ({"guidance_scale": {}}, r"`guidance_scale=\{\}` must be a finite number, or a mapping"),
        (
            {"guidance_scale": {"type": 2}},
            r"names 'type', which is not a condition. Known: \['cell",
        ),
        ({"guidance_scale": {"batch": "2"}}, r"`guidance_scale\['batch'\]='2'` must be a finite"),
        ({"guidance_interval": (0.5, 0.2)}, r"`guidance_interval=\(0.5, 0.2\)` must be two times"),
        ({"guidance_interval": (0.0, 2.0)}, "must be two times, from 0"),
        ({"guidance_interval": 0.5}, "`guidance_interval=0.5` must be two times"),
        ({"guidance_rescale": 1.5}, "`guidance_rescale=1.5` must be a number from 0 to 1"),
        ({"guidance_interval": ("a", "b")}, r"`guidance_interval=\('a', 'b'\)` must be two times"),
        ({"guidance_interval": (0.2, 0.5)}, "`guidance_interval` has no effect without"),
        ({"guidance_rescale": 0.5}, "`guidance_rescale` has no effect without"),
        ({"negative": {"cell_type": "T"}}, "`negative` has no effect without a `guidance_scale`"),
        ({"negative": ["T"], "guidance_scale": 2}, r"`negative=\['T'\]` must map conditions"),
        (
            {"negative": {"cell_type": None}, "guidance_scale": 2},
            "In `negative`: `cell_type=None` says no value",
        ),
        (
            {"negative": {"kind": "T"}, "guidance_scale": 2},
            "In `negative`: `kind` is not a registered condition",
        ),
        (
            {"negative": {"cell_type": "Bcell"}, "guidance_scale": 2},
            "In `negative`: `cell_type='Bcell'` is not a known cell type",
        ),
        (
            {"negative": {"cell_type": ["T", "B"]}, "guidance_scale": 2},
            "In `negative`: `cell_type` has 2 values for 5 cells",
        ),
        (
            {"negative": {"batch": 0}, "guidance_scale": {"cell_type": 2.0}},
            r"`negative` has 'batch', which has no effect without a `guidance_scale\['batch'\]`",
        ),
        (
            {"negative": {"cell_type": "T"}, "guidance_scale": {"cell_type": 1.0, "batch": 2.0}},
            "`negative` has 'cell_type', which has no effect",
        ),
        ({"sampler": None}, "`sampler=None` is not known. Known: "),
        ({"sampler": "adaptive", "steps": 3}, "`steps=3` has no meaning for an adaptive sampler"),
        ({"sampler": Churn(), "steps": 2.5}, "`steps=2.5` must be a whole number"),
        ({"sampler": "distilled"}, r"needs a student. Call `distill\(\)` first"),
    ],
)
def test_wrong_orders(trained, arguments, words):
    with pytest.raises(ValueError, match=words):
        trained.generate(5, **arguments)


def test_a_student_has_one_number_of_steps():
    assert checked_sampler("distilled", None, 4)[1] == 4
    assert checked_sampler("distilled", 4, 4)[1] == 4
    with pytest.raises(ValueError, match="the student was made for 4"):
        checked_sampler("distilled", 2, 4)


def test_whole_numbers_will_do_as_scales(trained):
    request = Request(trained.training_frame_, {}, {})
    guidance = checked_guidance(trained.conditions, request, {"batch": np.int64(2)}, [0, 1], 0)
    assert guidance.scale == {"batch": 2.0}
    assert guidance.interval == (0.0, 1.0)


# -- a scale for each member of a combination ----------------------------------------------------


def members_guided(trained, **scale):
    settings = {"perturbation": "KLF1+TP53", "dose": 10.0, "seed": 4}
    return trained.sample_latent(60, guidance_scale=scale or 1.0, **settings)[0]


def test_one_member_of_scale_one_is_the_combination(trained):
    np.testing.assert_allclose(
        members_guided(trained, KLF1=1.0), members_guided(trained), rtol=1e-4, atol=1e-4
    )


def test_a_member_of_scale_zero_is_not_there(trained):
    alone = trained.sample_latent(60, perturbation="TP53", dose=10.0, seed=4)
    without = trained.sample_latent(
        60, perturbation="KLF1+TP53", dose=10.0, seed=4, guidance_scale={"KLF1": 0.0}
    )
    # other conditions are drawn from other cells, so only the signals are compared
    assert alone[0].shape == without[0].shape
    (condition,) = (c for c in trained.conditions if c.name == "perturbation")
    frame = condition.parse("perturbation", ["KLF1+TP53", "TP53", "control"]).assign(dose=10.0)
    encoded = condition.encode(frame)
    left = condition.only(encoded, ["KLF1"], None)
    np.testing.assert_array_equal(np.sort(left[0]), np.sort(encoded[1]))
    np.testing.assert_array_equal(left[1:], encoded[1:])
    nothing = condition.only(encoded, ["KLF1", "TP53"], None)
    assert np.isnan(nothing[:2]).any(axis=1).all()
    np.testing.assert_array_equal(nothing[2], encoded[2])


def test_members_are_composed_and_each_counts(trained):
    both = members_guided(trained, KLF1=1.0, TP53=1.0)
    more = members_guided(trained, KLF1=2.0, TP53=1.0)
    other = members_guided(trained, KLF1=1.0, TP53=2.0)
    assert np.isfinite(more).all()
    assert np.abs(more - both).mean() > 0.01
    assert np.abs(more - other).mean() > 0.01


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ({"KLF1": 2.0, "perturbation": 2.0}, "has 'perturbation' and its member 'KLF1'"),
        ({"KLF1": 2.0}, "names 'KLF1', which no cell to generate has as its perturbation"),
    ],
)
def test_scales_of_members_that_make_no_sense(trained, scale, words):
    asked = "TP53" if len(scale) == 1 else "KLF1+TP53"
    with pytest.raises(ValueError, match=words):
        trained.generate(5, perturbation=asked, dose=1.0, guidance_scale=scale)


def test_away_from_a_perturbation_and_scales_of_members_exclude_each_other(trained):
    asked = {"perturbation": "KLF1+TP53", "dose": 1.0, "negative": {"perturbation": "control"}}
    with pytest.raises(
        ValueError, match="`negative` has 'perturbation', of which `guidance_scale` names"
    ):
        trained.generate(5, guidance_scale={"KLF1": 2.0}, **asked)


def test_scales_of_members_cannot_be_distilled(trained):
    with pytest.raises(ValueError, match="names 'KLF1', a member of a perturbation; here only"):
        trained.distill(guidance_scale={"KLF1": 2.0})
