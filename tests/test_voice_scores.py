"""Scores against a cohort, thresholds, error rates and their intervals: against slow definitions and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_curve

from auricle.errors import DataError
from auricle.voices import error_rates, score_norm
from auricle.voices.error_rates import Trials
from auricle.voices.score_norm import Cohort
from auricle.voices.trials import read_trials, speakers_of


def rates_of(scores: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> error_rates.ErrorRates:
    ranked = error_rates.rank(scores, target)
    rates = ranked.error_rates(np.ones(len(target)) if weight is None else weight)
    assert rates is not None
    return rates


def eer(scores: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> float:
    return rates_of(scores, target, weight).eer


def min_dcf(scores: np.ndarray, target: np.ndarray, p_target: float, weight: np.ndarray | None = None) -> float:
    return rates_of(scores, target, weight).min_dcf(p_target)


def people(speakers: int, clips: int, seed: int, width: int = 24, spread: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (speakers * clips, width) of length 1: a random centre each, all shifted to one side."""
    random = np.random.default_rng(seed)
    centres = random.normal(0, 1, (speakers, 1, width)) + 1.5 * np.eye(width)[0]
    rows = (centres + random.normal(0, spread, (speakers, clips, width))).reshape(-1, width)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.repeat(np.arange(speakers), clips)


def cohort_of(speakers: int = 30, clips: int = 5, seed: int = 0) -> Cohort:
    rows, whose = people(speakers, clips, seed)
    return Cohort(rows, tuple(f"c{number}" for number in whose), tuple(f"clip {number}" for number in range(len(rows))))


def slow_statistics(vector: np.ndarray, cohort: np.ndarray) -> tuple[float, float]:
    """The mean and deviation of the highest scores, by the definition."""
    found = np.sort(cohort @ vector)[::-1]
    size = min(len(found), int(np.clip(round(0.2 * len(found)), 20, 300)))
    return found[:size].mean(), found[:size].std()


def slow_score(left: np.ndarray, right: np.ndarray, against: np.ndarray, cohort: Cohort) -> float:
    """The normalised score of two vectors, normalised against the highest scores of `against`."""
    whose = np.array(cohort.speakers)
    among = [
        slow_statistics(row, cohort.embeddings[whose != speaker])[1] ** 2
        for row, speaker in zip(cohort.embeddings, whose, strict=True)
    ]
    count = len(set(cohort.speakers))
    sides = []
    for side in (left, right):
        mean, own = slow_statistics(side, against)
        deviation = np.sqrt(
            (count * own**2 + score_norm.PRIOR_SPEAKERS * np.mean(among)) / (count + score_norm.PRIOR_SPEAKERS)
        )
        sides.append((left @ right - mean) / deviation)
    return float(np.mean(sides))


@pytest.mark.parametrize("prior", [0, 30])
def test_normalisation_is_the_published_one_with_a_shrunken_deviation(
    prior: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With PRIOR_SPEAKERS at 0 it is the published one as it is."""
    monkeypatch.setattr(score_norm, "PRIOR_SPEAKERS", prior)
    cohort = cohort_of()
    left, right = people(3, 1, 1)[0], people(4, 1, 2)[0]
    found = score_norm.as_norm(left, right, cohort, np.ones((len(left), len(cohort)), bool))
    for row, ours in enumerate(left):
        for column, theirs in enumerate(right):
            assert found[row, column] == pytest.approx(slow_score(ours, theirs, cohort.embeddings, cohort))


def test_the_pooled_deviation_helps_where_the_cohort_has_few_people(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[int, list[float]] = {0: [], 30: []}
    for prior, rates in found.items():
        monkeypatch.setattr(score_norm, "PRIOR_SPEAKERS", prior)
        for seed in range(3):
            rows, whose = people(60, 4, 11 + seed)
            pairs = all_pairs(whose)
            cohort = cohort_of(3, 8, 12 + seed)
            everyone = np.ones((len(rows), len(cohort)), bool)
            scored = score_norm.as_norm(rows, rows, cohort, everyone)[pairs.left, pairs.right]
            rates.append(eer(scored, pairs.target))
    assert np.mean(found[30]) < 0.75 * np.mean(found[0])


def test_an_impostor_is_normalised_as_if_it_were_not_in_the_cohort() -> None:
    cohort = cohort_of(40, 4)
    voice = people(1, 1, 5)[0]
    impostors = cohort.impostor_mask(("c3",), ("clip 20",))[None]
    assert sorted({cohort.speakers[index] for index in np.flatnonzero(~impostors[0])}) == ["c3", "c5"]
    found = score_norm.impostor_scores(voice, impostors, cohort)
    assert np.isnan(found[0][~impostors[0]]).all()
    for index in np.flatnonzero(impostors[0])[::7]:
        without = cohort.select(impostors[0] & (np.array(cohort.speakers) != cohort.speakers[index]))
        expected = slow_score(voice[0], cohort.embeddings[index], without.embeddings, cohort)
        assert found[0, index] == pytest.approx(expected)


def test_the_false_accept_rate_above_the_threshold_is_the_requested_one() -> None:
    """Of impostors outside the cohort, over many voices: against each voice, and against the best of all."""
    cohort = cohort_of(100, 5)
    voices, impostor_tests = people(20, 1, 3)[0], people(400, 2, 4)[0]
    impostors = np.ones((len(voices), len(cohort)), bool)
    claims = score_norm.impostor_scores(voices, impostors, cohort)
    scores = score_norm.as_norm(voices, impostor_tests, cohort, impostors)
    for share in (0.02, 0.1):
        limits = [score_norm.threshold(row, share) for row in claims]
        assert all(limit is not None for limit in limits)
        assert np.mean(scores > np.array(limits)[:, None]) == pytest.approx(share, rel=0.4)
        best = score_norm.threshold(claims.max(0), share)
        assert best is not None and np.mean(scores.max(0) > best) == pytest.approx(share, rel=0.5)
        assert best > np.mean(limits)


def test_a_voice_in_the_cohort_is_accepted_by_its_own_clips() -> None:
    """The enrolled speaker's own cohort clips are no impostors: they count on neither side."""
    cohort = cohort_of(30, 5)
    own = np.flatnonzero(np.array(cohort.speakers) == "c7")
    voice, test = score_norm.mean_embedding(cohort.embeddings[own[:3]])[None], cohort.embeddings[own[3:]]
    impostors = cohort.impostor_mask(("c7",), ())[None]
    limit = score_norm.threshold(score_norm.impostor_scores(voice, impostors, cohort), 0.01)
    assert limit is not None and (score_norm.as_norm(voice, test, cohort, impostors) > limit).all()


def test_a_threshold_needs_impostors_and_accepts_no_more_than_requested() -> None:
    assert score_norm.threshold(np.array([1.0] * 9 + [np.nan]), 0.01) is None
    assert score_norm.threshold(np.arange(20.0), 0.01) == 19.0
    for share in (0.01, 0.05, 0.2, 0.5):
        known = np.random.default_rng(0).normal(0, 1, 997)
        limit = score_norm.threshold(known, share)
        assert limit is not None and share - 0.002 <= np.mean(known > limit) <= share


def test_a_voice_is_the_normalised_mean() -> None:
    rows = people(1, 6, 0)[0]
    np.testing.assert_allclose(score_norm.mean_embedding(rows), rows.mean(0) / np.linalg.norm(rows.mean(0)), atol=1e-6)


def random_scores(seed: int, count: int, apart: float, digits: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    target = random.uniform(size=count) < 0.3
    found = random.normal(0, 1, count) + apart * target
    return (found if digits is None else found.round(digits)), target


@pytest.mark.parametrize("digits", [None, 1, 0])
@pytest.mark.parametrize("seed", range(4))
def test_error_rates_are_those_of_scikit_learns_curve(seed: int, digits: int | None) -> None:
    found, target = random_scores(seed, 400, 1.5, digits)
    weight = np.random.default_rng(seed).integers(0, 4, len(found)).astype(float)
    for counted in (None, weight):
        alarm, hit, _ = roc_curve(target, found, drop_intermediate=False, sample_weight=counted)
        equal = brentq(lambda rate, x=alarm, y=hit: 1 - rate - interp1d(x, y)(rate), 0, 1)
        assert eer(found, target, counted) == pytest.approx(equal, abs=1e-9)
        for p_target in (0.01, 0.05, 0.5):
            cost = (p_target * (1 - hit) + (1 - p_target) * alarm).min() / min(p_target, 1 - p_target)
            assert min_dcf(found, target, p_target, counted) == pytest.approx(cost, abs=1e-12)


def test_a_weight_counts_as_repeated_trials() -> None:
    found, target = random_scores(1, 200, 1.0, 1)
    weight = np.random.default_rng(2).integers(0, 3, 200)
    again, twice = np.repeat(found, weight), np.repeat(target, weight)
    assert eer(found, target, weight) == pytest.approx(eer(again, twice))
    assert min_dcf(found, target, 0.05, weight) == pytest.approx(min_dcf(again, twice, 0.05))


def test_two_gaussians_have_the_error_rate_of_the_closed_form() -> None:
    """Two normal distributions d apart are equally often wrong at Φ(-d / 2)."""
    for apart in (1.0, 2.0, 3.0):
        found, target = random_scores(0, 400_000, apart)
        assert eer(found, target) == pytest.approx(norm.cdf(-apart / 2), abs=0.003)
    grid = np.linspace(-6, 9, 20_001)
    cost = 0.05 * norm.cdf(grid, 3.0) + 0.95 * norm.sf(grid)
    assert min_dcf(found, target, 0.05) == pytest.approx(cost.min() / 0.05, abs=0.01)


@pytest.mark.parametrize(
    ("found", "equal", "cost"), [([3, 2, 1, 0], 0.0, 0.0), ([0, 1, 2, 3], 1.0, 1.0), ([1, 1, 1, 1], 0.5, 1.0)]
)
def test_the_ends_of_the_scale(found: list[float], equal: float, cost: float) -> None:
    target = np.array([True, True, False, False])
    assert eer(np.array(found), target) == pytest.approx(equal)
    assert min_dcf(np.array(found), target, 0.01) == pytest.approx(cost)


def test_one_kind_of_trial_alone_has_no_error_rate() -> None:
    with pytest.raises(DataError, match="received 3 target and 0 non-target"):
        eer(np.arange(3.0), np.ones(3, bool))


def all_pairs(whose: np.ndarray) -> Trials:
    left, right = np.triu_indices(len(whose), 1)
    files = tuple(f"s{speaker}/{number}.wav" for number, speaker in enumerate(whose))
    return Trials(files, left, right, whose[left] == whose[right])


def test_intervals_over_speakers_are_as_wide_as_the_truth_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twenty samples of twelve speakers most intervals hold the rate of all speakers."""
    monkeypatch.setattr(error_rates, "RESAMPLES", 200)
    rows, whose = people(400, 3, 0, spread=1.3)
    world = all_pairs(whose)
    true = eer(np.einsum("tw,tw->t", rows[world.left], rows[world.right]), world.target)
    covered = 0
    for index in range(0, 240, 12):
        part = slice(index * 3, (index + 12) * 3)
        some = all_pairs(whose[part])
        found = np.einsum("tw,tw->t", rows[part][some.left], rows[part][some.right])
        figures, over = error_rates.error_rate_intervals(found, some, speakers_of(some))
        assert over.units == 12
        covered += figures["eer"].low <= true <= figures["eer"].high
    assert covered >= 16


def test_without_speakers_files_are_resampled() -> None:
    rows, whose = people(5, 4, 2, spread=1.0)
    pairs = all_pairs(whose)
    figures, over = error_rates.error_rate_intervals(
        np.einsum("tw,tw->t", rows[pairs.left], rows[pairs.right]), pairs, None
    )
    assert over.units == 20 and set(figures) == {"eer", "min_dcf_0.01", "min_dcf_0.05"}


def test_intervals_are_the_same_each_time_and_hold_the_value() -> None:
    rows, whose = people(10, 4, 1, spread=1.0)
    pairs = all_pairs(whose)
    found = np.einsum("tw,tw->t", rows[pairs.left], rows[pairs.right])
    first, second = (error_rates.error_rate_intervals(found, pairs, speakers_of(pairs))[0] for _ in range(2))
    assert first == second
    assert all(figure.low <= figure.value <= figure.high for figure in first.values())


@pytest.mark.parametrize(
    "text",
    [
        "1 id1/a.wav id1/b.wav\n0 id1/a.wav id2/c.wav\n",
        "id1/a.wav id1/b.wav target\n\nid1/a.wav id2/c.wav nontarget\n",
        "Target\tid1/a.wav\tid1/b.wav\r\nnontarget\tid1/a.wav\tid2/c.wav\r\n",
    ],
)
def test_a_list_is_read_in_its_usual_forms(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    found = read_trials(tmp_path / "list.txt")
    assert found.files == ("id1/a.wav", "id1/b.wav", "id2/c.wav")
    assert found.left.tolist() == [0, 0] and found.right.tolist() == [1, 2] and found.target.tolist() == [True, False]
    assert speakers_of(found) == ("id1", "id1", "id2")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no trials"), ("1 a b\n1 a\n", "line 2 is '1 a'"), ("1 a b\nmaybe a b\n", "line 2 is 'maybe a b'")],
)
def test_a_malformed_list_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_trials(tmp_path / "list.txt")


def test_speakers_are_known_only_where_folders_agree_with_the_trials() -> None:
    def of(*rows: tuple[str, str, bool]) -> tuple[str, ...] | None:
        names = list(dict.fromkeys(name for row in rows for name in row[:2]))
        left, right = (np.array([names.index(row[side]) for row in rows]) for side in (0, 1))
        return speakers_of(Trials(tuple(names), left, right, np.array([row[2] for row in rows])))

    assert of(("x/s1/a", "x/s1/b", True), ("x/s1/a", "x/s2/c", False)) == ("s1", "s1", "s2")
    assert of(("s1/a", "s2/b", True), ("s1/a", "s2/c", False)) is None
    assert of(("a", "b", True), ("a", "c", False)) is None
