"""A candidate compared with the champion: skill, drift, and series that the champion does not know."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_scoreboard import _forecaster, _judge, _panel

from kforecast.artifact import Artifact
from kforecast.evaluation.champion import CHAMPION, Champion, Comparison, comparison_words
from kforecast.evaluation.report.words import summary
from kforecast.evaluation.scores import overall
from kforecast.evaluation.skill import Skill
from kforecast.evaluation.verdict import champion_shortfall
from kforecast.models.naive import LAST_VALUE
from test_artifact import make_artifact


def judged(champion: Champion, forecaster=None):
    return _judge(_panel(gaps=0.1), forecaster or _forecaster(), champion=champion)


def worse():
    """A forecaster whose forecasts are twice as high."""
    made = _forecaster()
    with torch.no_grad():
        made.net.lc.weight *= 2
        made.net.lc.bias *= 2
    return made


def test_a_champion_that_is_the_candidate_is_neither_better_nor_worse():
    board = judged(Champion(_forecaster()))
    found = board.comparison
    assert found is not None
    assert found.skill.value == pytest.approx(0)
    assert found.skill.low == pytest.approx(0)
    assert found.skill.high == pytest.approx(0)
    assert found.wape == board.model["wape"]
    assert "not clear of 1.0%" in champion_shortfall(board, 0.01)
    assert champion_shortfall(board, -0.01) is None


def test_the_better_one_is_told_from_the_worse():
    board = judged(Champion(worse()))
    assert board.comparison.skill.low > 0.1
    assert board.comparison.skill.value == pytest.approx(
        1 - board.model["wape"] / overall(board.scores, CHAMPION)["wape"]
    )
    assert champion_shortfall(board, 0.01) is None
    assert "Better than the champion: its error is" in summary(board)
    other = judged(Champion(_forecaster()), worse())
    assert other.comparison.skill.high < 0
    assert "Worse than the champion" in summary(other)


def test_the_champion_takes_no_part_in_the_verdict_over_the_baselines():
    with_it, without = judged(Champion(worse())), _judge(_panel(gaps=0.1))
    assert with_it.skill == without.skill
    assert with_it.backtest.baselines == without.backtest.baselines
    assert without.comparison is None
    assert champion_shortfall(without, 0.0) == "nothing to compare the candidate and the champion on"


def test_where_the_champion_does_not_know_a_series_the_last_value_stands_in():
    knows = _forecaster()
    knows = replace(knows, item_ids={"w0m": 0, "w2m": 2})
    board = judged(Champion(knows))
    assert board.comparison.strangers == 1
    assert "The champion does not know 1 series" in summary(board)
    scores = board.scores[(board.scores["workload"] == "w1") & (board.scores["step"] == "all")]
    of = scores.set_index("model")["wape"]
    assert of[CHAMPION] == of[LAST_VALUE]
    others = board.scores[(board.scores["workload"] == "w2") & (board.scores["step"] == "all")]
    of = others.set_index("model")["wape"]
    assert of[CHAMPION] == of["kforecast"]


def test_drift_is_the_growth_beside_the_best_baseline():
    board = judged(Champion(_forecaster(), wape=0.1, baseline_wape=0.5, used_until=0))
    found = board.comparison
    best = overall(board.scores, board.skill.best_baseline)["wape"]
    assert found.relative_then == pytest.approx(0.2)
    assert found.relative == pytest.approx(found.wape / best)
    assert found.drift == pytest.approx(found.relative / 0.2 - 1)
    assert found.drifted
    assert "WAPE 10.00% when it was trained" in summary(board)
    assert board.as_dict()["champion"]["drift"] == pytest.approx(found.drift)


def test_a_champion_that_has_seen_the_span_is_said():
    panel = _panel()
    late = panel.start + 250 * panel.frequency.step
    assert "trained on a part of this span" in summary(judged(Champion(_forecaster(), used_until=late)))
    assert "trained on a part" not in summary(judged(Champion(_forecaster(), used_until=panel.start)))


@pytest.mark.parametrize(
    ("skill", "words"),
    [
        ((0.2, 0.1, 0.3), "Better than the champion: its error is 20.0% lower; 95% interval 10.0% to 30.0%."),
        (
            (0.2, -0.1, 0.3),
            "Not better than the champion beyond chance: its error is 20.0% lower; 95% interval",
        ),
        ((-0.2, -0.3, -0.1), "Worse than the champion: its error is 20.0% higher; 95% interval"),
        (
            (0.2, math.nan, math.nan),
            "its error is 20.0% lower, but the span is too short to tell that from chance.",
        ),
        ((math.nan,) * 3, "No comparison with the champion: there was no traffic to forecast."),
    ],
)
def test_in_words(skill, words):
    found = Comparison(Skill(*skill, CHAMPION, 6, 16), 0, 0.2, 0.5, math.nan, math.nan, False)
    said = comparison_words(found)
    assert words in said[0]
    assert said[1] == "Champion: WAPE 20.00% here; its WAPE at training is not known."
    assert not found.drifted


@pytest.mark.parametrize(
    "scores",
    [
        *(None, 3, {}, {"scoreboard": None}),
        {"scoreboard": {"baselines": {}, "skill": {"best_baseline": ["x"]}, "overall": {"wape": True}}},
        {"scoreboard": {"overall": {"wape": 10**400}}},
    ],
)
def test_an_artifact_need_not_say_how_good_it_was(scores):
    artifact = replace(make_artifact(), metadata={"fill": "interpolate", "scores": scores})
    champion = Champion.of(artifact, "it")
    assert np.isnan([champion.wape, champion.baseline_wape]).all()
    assert champion.used_until is None


def test_an_artifact_says_how_good_it_was():
    board = {"overall": {"wape": 0.1}, "baselines": {"x": {"wape": 0.4}}, "skill": {"best_baseline": "x"}}
    metadata = {"fill": "interpolate", "scores": {"scoreboard": board}, "data": {"validation_end": 123}}
    artifact: Artifact = replace(make_artifact(), metadata=metadata)
    champion = Champion.of(artifact, "it")
    assert (champion.wape, champion.baseline_wape, champion.used_until) == (0.1, 0.4, 123)
