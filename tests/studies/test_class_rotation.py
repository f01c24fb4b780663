"""The study of p(m|y) in miniature."""

import pytest

from tfcama.evaluation import results
from tfcama.studies import class_rotation
from tfcama.studies.class_rotation import ClassRotationStudy, Profile
from tfcama.workdir import Workdir, write_json


@pytest.mark.long
def test_a_study_of_class_rotation(tmp_path, bars_everywhere, monkeypatch):
    study = ClassRotationStudy(
        root=tmp_path / "runs",
        dataset="digits",
        data_dir=None,
        profile=Profile(epochs=1, warm_up=2, sleep=2, levels=(60.0,), limit=12),
        precision="float32",
        progress=lambda text: None,
    )
    with monkeypatch.context() as patched:  # the other prior costs as much and shows no more
        patched.setattr(class_rotation, "_PRIORS", ("class",))
        workdirs = study.one_seed(0)
    assert study.checks([], workdirs) == {}  # half of it, as --finished may find it
    (found,) = study._every_seed(workdirs, 60.0, "class")
    learned = {**found, "prior_m": "learned", "accuracy": -1.0, "log_px": -500.0}
    other = Workdir(tmp_path / "other")
    write_json(other.results / class_rotation._FOUND, learned)
    rows = [row for each in workdirs for row in results.load_rows(each)]
    adapted = [row for row in rows if row.experiment == "manipulation_held_out" and row.level]
    assert [row.variant for row in adapted] == ["mechanism=rotation, prior_m=class"]
    assert sum(map(sum, found["confusions"])) == adapted[0].n
    assert found["accuracy"] == adapted[0].accuracy
    (check,) = study.checks(rows, [*workdirs, other])["Does p(m|y) pay?"]
    assert check.passed
    assert "against -100.0 %" in check.detail
    (picture,) = study.pictures(rows, workdirs, chance=0.1)
    assert picture.name == "prior_60"
    assert study.pictures(rows, workdirs[:1], chance=0.1) == []
