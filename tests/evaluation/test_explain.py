"""Explanations of a small model, against means that are computed here."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import TF_DATA_IS_COMPILED
from tests.doubles import Linear
from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.evaluation import explain as explain_lib
from tfcama.evaluation.explain import explain
from tfcama.evaluation.predict import Predictor, prediction_noise
from tfcama.models.measurement_cama import MeasurementCama, MeasurementCamaConfig
from tfcama.report import explanation as report
from tfcama.report.explanation import explanation_figure
from tfcama.types import CHILD, COPARENT, PARENT, Column, InputSpec

# Every test asks a model of its own once or twice; to compile it takes longer.
pytestmark = [pytest.mark.usefixtures("uncompiled"), TF_DATA_IS_COMPILED]

SPEC = InputSpec(
    shape=(10,),
    class_names=("healthy", "ill", "unclear"),
    bounds=None,
    columns=(
        Column("pressure", (CHILD,), loc=120.0, scale=20.0),
        Column("age", (PARENT,), loc=40.0, scale=10.0, indicator=True),
        Column("colour", (CHILD,), categories=("blue", "green", "red")),
        Column("sex", (COPARENT,), categories=("f", "m")),
        Column("iron", (CHILD,), loc=0.5, scale=0.1),
        Column("site", ()),
    ),
    target="diagnosis",
)
PRESSURE, COLOUR, IRON = slice(0, 1), slice(3, 6), slice(8, 9)  # features of a row
NARROW = 1e-3  # what samples from narrow posteriors leave of the difference to their means
NAN = np.nan
ROW = np.array([1.5, 0.3, 0, 0, 1, 0, 0, 1, -2.0, 0.0], np.float32)


@pytest.fixture
def untrained():
    tf.keras.utils.set_random_seed(0)
    config = MeasurementCamaConfig(hidden=16, dim_z=4, dim_m=3, num_samples=2)
    return MeasurementCama(SPEC, config)


@pytest.fixture
def adapted(untrained):
    """M acts: the gates are open and q(m|x) depends on x. Both posteriors are narrow."""
    generator = np.random.default_rng(0)
    open_gates(untrained)
    for head, scale in ((untrained.q_m._head, 1.0), (untrained.q_z._head, 0.3)):
        size = head._parameters.kernel.shape[1] // 2
        kernel = scale * generator.normal(size=head._parameters.kernel.shape)
        kernel[:, size:] = 0.0
        head._parameters.kernel.assign(kernel)
        head._parameters.bias.assign([0.0] * size + [-14.0] * size)  # log-variances
    return untrained


def open_gates(model):
    for gate in (model.mechanism._feature_gate, model.mechanism._code_gate):
        gate.assign(np.ones(gate.shape, np.float32))


def means(model, x, *, label, new):
    """Means of the children at m, under do(m=0), and under do(m=0) with another class; [5] each."""
    x = tf.constant(x[None])
    y, m, c = tf.one_hot([[label]], 3), model.posterior_m(x).mean(), model.coparents(x)
    z = model.posterior_z(x, y, m).mean()[None]
    other = tf.one_hot([new], 3)[:, None]
    found = model.p(y, z, m, c), model.p(y, z, 0.0 * m, c), model.p(other, z, 0.0 * m, c)
    return [distribution.mean().numpy()[0, 0, 0] for distribution in found]


def child(found, name):
    (only,) = (c for c in found.children if c.name == name)
    return only


def test_the_posterior_is_the_evaluation_s(adapted):
    found = explain(adapted, ROW, seed=3)
    scores = Predictor(adapted, seed=3).log_scores(ROW[None])[0].astype(float)
    assert list(found.posterior) == list(SPEC.class_names)
    weights = np.exp(scores - scores.max())
    np.testing.assert_allclose(list(found.posterior.values()), weights / weights.sum(), rtol=1e-6)
    assert found.log_px == pytest.approx(np.log(np.exp(scores).sum()), rel=1e-6)
    assert found.predicted == SPEC.class_names[scores.argmax()]
    assert found.other == SPEC.class_names[np.argsort(scores)[-2]]


def test_before_finetuning_m_moves_nothing_and_do_m0_is_the_row_itself(untrained):
    found = explain(untrained, ROW, seed=0)
    assert [c.movement for c in found.children] == [0.0, 0.0, 0.0]
    assert found.log_px_do_m0 == pytest.approx(found.log_px, rel=1e-6)
    assert found.moved == ()
    assert not found.m_acts
    assert found.do_m0 == found.row
    assert found.row == {
        "pressure": 150.0,
        "age": 43.0,
        "colour": "green",
        "sex": "m",
        "iron": 0.3,
        "site": 0.0,
    }
    assert "no effect" in found.to_json()["note"]
    assert "no effect" in found.summary()[1]


def test_children_are_told_in_the_user_s_units(adapted):
    found = explain(adapted, ROW, seed=0)
    label = SPEC.class_names.index(found.predicted)
    with_m, without, _ = means(adapted, ROW, label=label, new=0)
    iron = child(found, "iron")
    assert iron.observed == pytest.approx(0.3)
    assert iron.expected == pytest.approx(0.5 + 0.1 * with_m[4], abs=NARROW * 0.1)
    assert iron.expected_do_m0 == pytest.approx(0.5 + 0.1 * without[4], abs=NARROW * 0.1)
    assert iron.sd == pytest.approx(0.1 * 0.5)  # initial_scale of the column's 0.1
    assert iron.movement == pytest.approx(0.1 * (with_m[4] - without[4]), abs=NARROW * 0.1)
    assert iron.movement_sd == pytest.approx((with_m[4] - without[4]) / 0.5, abs=2 * NARROW)
    assert iron.surprise == pytest.approx((-2.0 - without[4]) / 0.5, abs=2 * NARROW)
    colour = child(found, "colour")
    assert colour.observed == "green"
    np.testing.assert_allclose(list(colour.probabilities.values()), with_m[1:4], atol=NARROW)
    np.testing.assert_allclose(list(colour.probabilities_do_m0.values()), without[1:4], atol=NARROW)
    gained = np.maximum(with_m[1:4] - without[1:4], 0.0).sum()
    assert colour.movement == pytest.approx(gained, abs=NARROW)
    assert colour.movement > 0.01  # M acts on categories, too
    written = next(c for c in found.to_json()["children"] if c["name"] == "colour")
    assert written["probability_of_observed"] == pytest.approx(with_m[2], abs=NARROW)
    assert written["probability_of_observed_do_m0"] == pytest.approx(without[2], abs=NARROW)


def test_m_is_sampled(untrained, monkeypatch):
    """Where q(m|x) is around zero the mean of m would move nothing, but the length of m does."""

    def lengths(m):
        return tf.reduce_sum(m**2, axis=-1, keepdims=True) * tf.ones([1, 16])

    monkeypatch.setattr(untrained.mechanism, "features", lengths)
    found = explain(untrained, ROW, seed=0)
    label = SPEC.class_names.index(found.predicted)
    with_m, without, _ = means(untrained, ROW, label=label, new=0)
    np.testing.assert_allclose(with_m, without, atol=1e-6)
    x = tf.constant(np.repeat(ROW[None], 20_000, axis=0))
    m = tf.random.stateless_normal([20_000, 3], [0, 1])
    y = tf.one_hot([[label]], 3)
    q_z = untrained.posterior_z(x, y, m)
    z = (q_z.mean() + q_z.stddev() * tf.random.stateless_normal([20_000, 1, 4], [0, 2]))[None]
    c = untrained.coparents(x)
    moved = untrained.p(y, z, m, c).mean() - untrained.p(y, z, 0.0 * m, c).mean()
    moved = moved.numpy()[0, :, 0, [0, 4]]  # [2, samples]
    error = moved.std(axis=1) / 16  # of averages over 256 samples
    assert (np.abs(moved.mean(axis=1)) > 10 * error).any()
    movements = np.array([c.movement / c.scale for c in found.numeric])
    assert (np.abs(movements - moved.mean(axis=1)) < 4 * error).all()


def test_m_is_what_the_prediction_takes(adapted):
    adapted.config = dataclasses.replace(adapted.config, m_at_test="do_m0")
    found = explain(adapted, ROW, seed=0)
    assert not found.m_acts
    assert found.log_px_do_m0 == pytest.approx(found.log_px, rel=1e-6)


def test_movements_that_make_the_row_less_likely_are_doubted(adapted):
    found = explain(adapted, ROW, seed=0)
    draw = tf.constant(prediction_noise(0))
    adapted.config = dataclasses.replace(adapted.config, m_at_test="do_m0")
    without_m = adapted.log_px(tf.constant(ROW[None]), seed=draw).numpy()[0]
    assert found.log_px_do_m0 == pytest.approx(without_m, rel=1e-5)
    likelier = dataclasses.replace(found, log_px=-9.0, log_px_do_m0=-8.0)
    assert "without M the row is likelier" in likelier.summary()[1]
    assert likelier.to_json()["note"] == likelier.note
    assert "likelier without M" in texts(explanation_figure(likelier))
    trusted = dataclasses.replace(found, log_px=-8.0, log_px_do_m0=-9.0)
    assert trusted.note == ""
    assert "likelier without M" not in texts(explanation_figure(trusted))


def test_do_m0_takes_the_movement_back(adapted):
    found = explain(adapted, ROW, seed=0)
    for name in ("pressure", "iron"):
        moved = child(found, name).movement
        assert abs(moved) > 1e-3 * child(found, name).scale
        expected = found.row[name] - moved
        assert found.do_m0[name] == pytest.approx(expected, abs=2e-5 * child(found, name).scale)
    assert all(found.do_m0[name] == found.row[name] for name in ("age", "sex", "site"))


def test_do_m0_takes_a_stretch_back():
    """What M stretched is what it was before, not its mean alone."""
    tf.keras.utils.set_random_seed(0)
    settings = {"hidden": 16, "dim_z": 4, "num_samples": 2, "mechanism": "location_scale"}
    model = MeasurementCama(SPEC, MeasurementCamaConfig(**settings))
    m = np.array([2.0, -1.0, 8.0, -6.0], np.float32)  # shifts, log factors, of pressure and iron
    model.q_m._head._parameters.bias.assign([*m, *[-30.0] * 4])  # log-variances
    shift, log_factor = np.split(model.mechanism.values(m[None]).numpy()[0], 2)
    assert np.abs(log_factor).min() > 0.3
    found = explain(model, ROW, seed=0)
    before = (ROW[[0, 8]] - shift) * np.exp(-log_factor)
    assert found.do_m0["pressure"] == pytest.approx(120.0 + 20.0 * before[0], abs=2e-3)
    assert found.do_m0["iron"] == pytest.approx(0.5 + 0.1 * before[1], abs=1e-5)
    x = tf.constant(ROW[None])
    q_z = model.posterior_z(x, tf.one_hot([[0]], 3), tf.constant(m[None]))
    p_x = model.p(tf.one_hot([[0]], 3), q_z.mean()[None], tf.zeros([1, 4]), model.coparents(x))
    sds = p_x.stddev_of_numeric().numpy().ravel()
    np.testing.assert_allclose([c.sd / c.scale for c in found.numeric], sds, rtol=1e-5)


@pytest.mark.parametrize("roles", [(PARENT, COPARENT), (PARENT, COPARENT, CHILD)])
def test_a_table_may_have_no_numeric_child(roles):
    columns = [c for c in SPEC.columns if c.roles and c.roles[0] in roles]
    columns = tuple(c for c in columns if c.roles != (CHILD,) or c.categories)
    spec = SPEC._replace(shape=(sum(c.width for c in columns),), columns=columns)
    tf.keras.utils.set_random_seed(0)
    model = MeasurementCama(spec, MeasurementCamaConfig(hidden=16, num_samples=2))
    x = np.zeros(spec.shape, np.float32)
    for column in columns:
        if column.categories:
            x[spec.places(column.name)[0]] = 1.0
    found = explain(model, x, seed=0)
    assert [c.name for c in found.children] == [c.name for c in columns if c.roles == (CHILD,)]
    assert not found.numeric
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("other", [0, 1, 2])
def test_another_class_moves_numeric_children_by_the_difference_of_means(adapted, other):
    label = SPEC.class_names.index(explain(adapted, ROW, seed=0).predicted)
    if other == label:
        with pytest.raises(InputError, match="is the predicted class"):
            explain(adapted, ROW, seed=0, other=other)
        return
    found = explain(adapted, ROW, seed=0, other=other)
    with_m, _, new = means(adapted, ROW, label=label, new=other)
    assert found.other == SPEC.class_names[other]
    pressure = 150.0 + 20.0 * (new[0] - with_m[0])
    assert found.other_class["pressure"] == pytest.approx(pressure, abs=20 * NARROW)
    assert found.other_class["iron"] == pytest.approx(
        0.3 + 0.1 * (new[4] - with_m[4]), abs=0.1 * NARROW
    )
    assert all(found.other_class[name] == found.row[name] for name in ("age", "sex", "site"))


def test_a_category_stays_unless_it_lost_more_than_another_gained():
    before = np.array([0.2, 0.5, 0.3])
    same = explain_lib._moved_least(np.intp(0), before, before)
    np.testing.assert_array_equal(same, [1.0, 0.0, 0.0])  # unlikely as it was, it stays
    after = np.array([0.05, 0.6, 0.35])
    found = explain_lib._moved_least(np.intp(0), before, after)
    np.testing.assert_allclose(found, [0.25, 0.5, 0.25])  # 3/4 leave, 2 to 1 as the others gained
    np.testing.assert_array_equal(explain_lib._moved_least(np.intp(1), before, after), [0, 1, 0])


def test_the_coupling_of_categories_has_both_marginals():
    before, after = np.random.default_rng(0).dirichlet(np.ones(5), 2)
    joint = [p * explain_lib._moved_least(np.intp(i), before, after) for i, p in enumerate(before)]
    np.testing.assert_allclose(np.sum(joint, axis=0), after)


def counterfactual(x, before, after):
    before, after = (np.asarray(mean, float) for mean in (before, after))
    residual = np.zeros(5)
    residual[[0, 4]] = x[[0, 8]] - before[[0, 4]]
    found = explain_lib._Abducted(before, after, after, np.ones(2), residual)
    (row,) = explain_lib._counterfactual(SPEC, x[None], found, after)
    return row


def test_a_category_leaves_where_its_probability_does():
    before, after = [0.0, 0.1, 0.8, 0.1, 0.0], [1.0, 0.7, 0.1, 0.2, -1.0]
    row = counterfactual(ROW, before, after)  # green
    np.testing.assert_allclose(row[COLOUR], [1.0, 0.0, 0.0])
    np.testing.assert_allclose([row[PRESSURE][0], row[IRON][0]], [2.5, -3.0])
    red = ROW.copy()
    red[COLOUR] = [0, 0, 1]
    np.testing.assert_array_equal(counterfactual(red, before, after)[COLOUR], [0, 0, 1])


def test_missing_children_get_what_is_expected(adapted):
    x = ROW.copy()
    x[PRESSURE], x[COLOUR] = NAN, NAN
    found = explain(adapted, x, seed=0)
    label = SPEC.class_names.index(found.predicted)
    _, without, _ = means(adapted, x, label=label, new=0)
    pressure = child(found, "pressure")
    assert pressure.observed is None
    assert pressure.surprise is None
    assert found.row["pressure"] is None
    assert found.row["colour"] is None
    assert found.do_m0["pressure"] == pytest.approx(120 + 20 * without[0], abs=20 * NARROW)
    assert found.do_m0["colour"] == ("blue", "green", "red")[without[1:4].argmax()]
    assert found.do_m0["iron"] == pytest.approx(0.3 - child(found, "iron").movement, abs=1e-5)
    written = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(written)["children"][0]["observed"] is None


def test_a_missing_parent_stays_missing(adapted):
    x = ROW.copy()
    x[1], x[2] = 0.0, 1.0
    found = explain(adapted, x, seed=0)
    assert found.row["age"] is None
    assert found.do_m0["age"] is None


def test_json_reads_back_and_names_what_moved(adapted):
    found = explain(adapted, ROW, seed=0)
    value = found.to_json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value["class"] == found.predicted
    assert value["probability"] == value["posterior"][found.predicted]
    first, second = value["counterfactuals"]
    assert first["do"] == {"m": 0}
    assert first["row"] == found.do_m0
    assert second["do"] == {"m": 0, "diagnosis": found.other}
    assert "> 2 standard deviations" in value["moved_if"]


def numeric(name, *, movement_sd, observed=0.0):
    return explain_lib.NumericChild(
        name=name,
        loc=0.0,
        scale=1.0,
        observed=observed,
        expected=0.1 * movement_sd,
        expected_do_m0=0.0,
        sd=0.1,
    )


def by_hand(children, classes=("a", "b")):
    row = {c.name: c.observed for c in children}
    return explain_lib.Explanation(
        target="kind",
        posterior={name: 1.0 / len(classes) for name in classes},
        predicted=classes[0],
        log_px=-1.0,
        log_px_do_m0=-2.0,
        children=tuple(children),
        row=row,
        do_m0=row,
        other=classes[1],
        other_class=row,
    )


SWITCHED = explain_lib.CategoricalChild(
    "hue", "red", {"red": 0.6, "not": 0.4}, {"red": 0.1, "not": 0.9}
)
KEPT = dataclasses.replace(SWITCHED, name="kept", probabilities={"red": 0.4, "not": 0.6})


def test_moved_children_are_those_beyond_two_sd_the_farthest_first():
    found = by_hand(
        [
            KEPT,
            numeric("little", movement_sd=1.9),
            numeric("far", movement_sd=-7.0),
            SWITCHED,
            numeric("near", movement_sd=2.1),
        ]
    )
    assert found.moved == ("far", "near", "hue")
    lines = found.summary()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["far", "near", "hue"]
    assert "-7.0 sd" in lines[1]


@pytest.mark.parametrize("other", [-1, 3])
def test_a_class_out_of_range_is_refused(untrained, other):
    with pytest.raises(InputError, match=f"other={other} was given; classes are 0 to 2"):
        explain(untrained, ROW, seed=0, other=other)


def test_rows_of_another_shape_or_beyond_floats_are_refused(untrained):
    with pytest.raises(InputError, match=r"\[batch, 10\] is needed"):
        explain(untrained, ROW[:9], seed=0)
    with pytest.raises(InputError, match=r"\[batch, 10\] is needed"):
        explain(untrained, ROW[None], seed=0)
    far = ROW.copy()
    far[IRON] = 1e30
    with pytest.raises(InputError, match="check its units"):
        explain(untrained, far, seed=0)


def test_names_and_row_numbers_are_looked_up(untrained):
    assert explain_lib.class_of(SPEC, "ill") == 1
    with pytest.raises(InputError, match="did you mean 'healthy'"):
        explain_lib.class_of(SPEC, "helthy")
    assert explain_lib.check_number(3, 3, what="t.csv") == 2
    for number in (0, 4):
        with pytest.raises(InputError, match=f"row {number} of t.csv was asked for; .* 1 to 3"):
            explain_lib.check_number(number, 3, what="t.csv")
    assert explain_lib.explainable(untrained) is untrained


def test_classifiers_without_a_graph_are_refused():
    images = Linear(np.ones([4, 2]), shape=(2, 2, 1))
    with pytest.raises(InputError, match="this run is a classifier of images"):
        explain_lib.explainable(images)


def test_without_children_the_figure_says_so():
    assert "no children" in texts(explanation_figure(by_hand([])))


def texts(figure):
    figure.draw_without_rendering()
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_figure_shows_every_class_and_child(adapted):
    x = ROW.copy()
    x[PRESSURE] = NAN
    found = explain(adapted, x, seed=0)
    figure = explanation_figure(found)
    classes, words, numbers, categories = figure.axes
    assert len(classes.patches) == 3
    widths = sorted((bar.get_width() for bar in classes.patches), reverse=True)
    np.testing.assert_allclose(widths, sorted(found.posterior.values(), reverse=True))
    assert classes.get_yticklabels()[0].get_text() == found.predicted
    assert {t.get_text() for t in numbers.get_yticklabels()} == {"pressure (missing)", "iron"}
    assert [t.get_text() for t in categories.get_yticklabels()] == ["colour = green"]
    assert found.predicted in figure.get_suptitle()
    assert "M moved" in words.texts[0].get_text()
    circles = [line.get_xdata()[0] for line in numbers.lines if line.get_marker() == "o"]
    assert circles == pytest.approx([-2.0])  # iron, in its standard deviations
    squares = [line.get_xdata()[0] for line in numbers.lines if line.get_marker() == "s"]
    expected = [(c.expected_do_m0 - c.loc) / c.scale for c in found.numeric]
    assert sorted(squares) == pytest.approx(sorted(expected))
    (probability,) = (line.get_xdata()[0] for line in categories.lines if line.get_marker() == "s")
    assert probability == pytest.approx(child(found, "colour").probabilities_do_m0["green"])


def test_the_figure_draws_m_only_where_it_acts(untrained):
    figure = explanation_figure(explain(untrained, ROW, seed=0))
    assert not any(line.get_marker() == "D" for axes in figure.axes for line in axes.lines)
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert not any("with M" in key for key in keys)
    assert "no effect" in texts(figure)


def test_an_arrow_goes_from_do_m0_to_the_explanation():
    figure = explanation_figure(by_hand([numeric("far", movement_sd=-7.0)]))
    (arrow,) = (t for t in figure.axes[2].texts if t.arrow_patch is not None)
    assert arrow.xyann == pytest.approx((0.0, 0))
    assert arrow.xy == pytest.approx((-0.7, 0))


def test_a_wide_table_shows_the_least_usual_children():
    children = [numeric(f"child {i:02}", movement_sd=0.0, observed=0.1 * i) for i in range(40)]
    found = by_hand(
        [*children, *[dataclasses.replace(SWITCHED, name=f"hue {i}") for i in range(9)]]
    )
    _, _, numbers, categories = explanation_figure(found).axes
    names = [t.get_text() for t in numbers.get_yticklabels()]
    assert names == [f"child {i:02}" for i in range(39, 25, -1)]
    assert len(categories.get_yticklabels()) == 6
    assert numbers.get_title() == "14 of 40 numeric children"


def test_json_and_picture_are_written_together(untrained, tmp_path, monkeypatch):
    found = explain(untrained, ROW, seed=0)
    target = tmp_path / "run" / "explain"
    for _ in range(2):  # the second replaces the first
        report.save(target, found)
        assert {p.name for p in target.iterdir()} == {"explanation.json", "explanation.png"}
    assert json.loads((target / "explanation.json").read_text()) == found.to_json()
    assert (target / "explanation.png").read_bytes().startswith(b"\x89PNG")

    def fail(path, content):
        raise OSError("full")

    monkeypatch.setattr(report, "write_bytes", fail)
    with pytest.raises(OSError, match="full"):
        report.save(tmp_path / "new", found)
    assert not (tmp_path / "new").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_nothing_else_is_replaced(untrained, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds other files \(config.json\)"):
        report.save(tmp_path, explain(untrained, ROW, seed=0))
    with pytest.raises(InputError, match="is a file"):
        report.check_target(tmp_path / "config.json")
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_table_s_row_is_explained_as_it_was_written(untrained, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("site,sex,iron,colour,age,pressure\n0,m,0.3,green,43,150\n1,f,,red,,130\n")
    frame = tables.read_csv(path)
    x = tables.encode(SPEC, frame)
    np.testing.assert_allclose(x[0], ROW, atol=1e-5)
    found = explain(untrained, x[1], seed=0)
    assert found.row["iron"] is None
    # Of site, unlike of age, no feature says that it is missing.
    assert tables.imputed(SPEC, frame.assign(age=None, site=["", "3"])) == {"site": 1}
    assert found.row["site"] == 1.0
    told = explain(untrained, x[1], seed=0, imputed=["site"])
    assert told.row["site"] is told.do_m0["site"] is told.other_class["site"] is None
    assert told.posterior == found.posterior
    assert (found.row["pressure"], found.row["sex"], found.row["age"]) == (130.0, "f", None)
