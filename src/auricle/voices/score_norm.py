"""How alike two voices are, and from where on that is enough: cosines, normalised against a cohort of other people.

In: vectors of length 1. Out: scores (voices, tests) and thresholds. A score counts in deviations above what strangers
get: adaptive symmetric normalisation (Matejka et al. 2017, "Analysis of score normalization in multilingual speaker
recognition"). A threshold is a quantile of strangers' scores, each stranger normalised as if not in the cohort.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Of the cohort, so much of it that is nearest, within these bounds: Matejka et al. find 200 to 500 of thousands best.
TOP_SHARE = 0.2
TOP = (20, 300)
# With fewer strangers neither a mean of the nearest nor a quantile says anything.
MIN_COHORT = 10
MIN_SPEAKERS = 3
# A deviation among few people is mostly chance (measured: plain s-norm by 5 people doubled the EER of 5 others), so it
# is mixed with the one that all the cohort's clips have in common, which counts as so many people.
COMMON_PEOPLE = 30
_FLAT = 1e-3


@dataclass(frozen=True, eq=False)
class Level:
    """What the nearest strangers score against some vectors: mean and deviation (vectors,)."""

    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True, eq=False)
class Cohort:
    """Clips of other people: vectors (clips, width), whose they are, and the hash of what was heard.

    Clips of one speaker name are one person; where nobody knows, each clip has a name of its own.
    """

    vectors: np.ndarray
    speakers: tuple[str, ...]
    contents: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.speakers)

    @property
    def codes(self) -> np.ndarray:
        """The speakers as numbers (clips,)."""
        numbers: np.ndarray = np.unique(np.array(self.speakers), return_inverse=True)[1].reshape(-1)
        return numbers

    @functools.cached_property
    def deviation(self) -> float:
        """How far the scores of strangers lie apart, for all clips of the cohort in common."""
        codes = self.codes
        found = level(cosines(self.vectors, self.vectors), codes[:, None] != codes[None, :])
        return float(np.sqrt((found.deviation**2).mean()))

    def steadied(self, found: Level) -> Level:
        """A level whose deviation is its own where the cohort has many people, and the common one where it has few."""
        own = len(set(self.speakers)) / (len(set(self.speakers)) + COMMON_PEOPLE)
        mixed = np.sqrt(own * found.deviation**2 + (1 - own) * self.deviation**2)
        return Level(found.mean, np.maximum(mixed, _FLAT))

    def select(self, keep: np.ndarray) -> "Cohort":
        """The clips for which `keep` (clips,) bool is true."""
        rows = np.flatnonzero(keep)
        return Cohort(
            self.vectors[rows], tuple(self.speakers[row] for row in rows), tuple(self.contents[row] for row in rows)
        )

    def impostors_of(self, names: Collection[str], contents: Collection[str]) -> np.ndarray:
        """Which clips (clips,) are of people other than these names and than the speakers of these contents."""
        known = set(names) | {
            speaker for speaker, content in zip(self.speakers, self.contents, strict=True) if content in set(contents)
        }
        return np.array([speaker not in known for speaker in self.speakers], dtype=bool)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosines (left, right) of vectors (left, width) and (right, width) of length 1."""
    return left.astype(np.float64) @ right.astype(np.float64).T


def voice(vectors: np.ndarray) -> np.ndarray:
    """One voice (width,) of length 1 from the vectors (clips, width) of its clips: their mean."""
    mean = vectors.astype(np.float64).mean(0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


def level(scores: np.ndarray, keep: np.ndarray | None = None, count: np.ndarray | None = None) -> Level:
    """What the nearest strangers score: scores (vectors, cohort), of which `keep` (the same) may count.

    `count` (vectors,) is how large the cohort is of which the nearest are taken; by default as large as is kept.
    """
    counts = np.full(len(scores), scores.shape[1]) if keep is None else keep.sum(1)
    shares = np.clip(np.round(TOP_SHARE * (counts if count is None else count)), *TOP)
    sizes = np.minimum(counts, shares).astype(int)
    most = max(1, int(sizes.max(initial=1)))
    ranked = -scores if keep is None else np.where(keep, -scores, np.inf)
    if ranked.shape[1] > most:
        ranked = np.partition(ranked, most - 1, axis=1)[:, :most]
    ranked = -np.sort(ranked, axis=1)
    counted = np.arange(ranked.shape[1])[None, :] < sizes[:, None]
    number = np.maximum(sizes, 1)
    mean = np.where(counted, ranked, 0.0).sum(1) / number
    spread = np.where(counted, ranked - mean[:, None], 0.0)
    return Level(mean, np.maximum(np.sqrt((spread**2).sum(1) / number), _FLAT))


def normalise(left: np.ndarray, right: np.ndarray, cohort: Cohort, strange: np.ndarray | None = None) -> np.ndarray:
    """Normalised scores (left, right) of vectors; `strange` (left, cohort) says who is a stranger to the left ones.

    Those who are not are taken out on both sides: else a voice's own clips in the cohort would be what its tests are
    compared with. NaN where nobody is left.
    """
    against, raw = cosines(right, cohort.vectors), cosines(left, right)
    if strange is None:
        strange = np.ones((len(left), len(cohort)), bool)
    ours = cohort.steadied(level(cosines(left, cohort.vectors), strange))
    out = (raw - ours.mean[:, None]) / ours.deviation[:, None]
    for rows, kept in _alike(strange):
        theirs = cohort.steadied(level(against[:, kept]))
        out[rows] += (raw[rows] - theirs.mean) / theirs.deviation
    return np.asarray(np.where(strange.sum(1)[:, None] > 0, out / 2, np.nan))


def impostors(voices: np.ndarray, strange: np.ndarray, cohort: Cohort) -> np.ndarray:
    """Normalised scores (voices, cohort) of each cohort clip that claims to be each voice; NaN where it is no stranger.

    voices (voices, width); strange (voices, cohort). The claimant's own speaker is taken out of the cohort that
    normalises the claim, on both sides: in life, a stranger's own clips are not in it.
    """
    codes = cohort.codes
    others = codes[:, None] != codes[None, :]
    raw, among = cosines(voices, cohort.vectors), cosines(cohort.vectors, cohort.vectors)
    out = np.full(raw.shape, np.nan)
    for rows, kept in _alike(strange):
        if len(np.unique(codes[kept])) < 2:
            continue
        claimant = cohort.steadied(level(among[np.ix_(kept, kept)], others[np.ix_(kept, kept)]))
        for row in rows:
            scores = raw[row, kept]
            ours = cohort.steadied(_without_each(scores, codes[kept]))
            out[row, kept] = (scores - ours.mean) / ours.deviation / 2
            out[row, kept] += (scores - claimant.mean) / claimant.deviation / 2
    return out


def _alike(strange: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The voices (numbers) that have the same strangers, and who these are (numbers); none where there is nobody."""
    patterns, pattern_of = np.unique(strange, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if pattern.any():
            yield np.flatnonzero(pattern_of.reshape(-1) == number), np.flatnonzero(pattern)


def _without_each(scores: np.ndarray, codes: np.ndarray) -> Level:
    """One voice's level against the cohort (clips,) less each clip's own speaker, for each clip: (clips,)."""
    speakers, place = np.unique(codes, return_inverse=True)
    sizes = np.bincount(place.reshape(-1))
    # Whoever is taken out, the nearest that are left are among these.
    reach = TOP[1] + int(sizes.max())
    order = np.argsort(-scores, kind="stable")[:reach]
    there = codes[order][None, :] != speakers[:, None]
    # The share counts in what is left of the whole cohort, not of its nearest part.
    found = level(np.broadcast_to(scores[order], there.shape), there, len(scores) - sizes)
    return Level(found.mean[place.reshape(-1)], found.deviation[place.reshape(-1)])


def threshold(out_of_set: np.ndarray, max_false_accept_rate: float) -> float | None:
    """The score that at most a share `false_accept` of strangers' scores exceed; None where too few are known.

    `strangers` (any shape) may hold NaN. With fewer than 1 / false_accept of them it is their greatest score.
    """
    known = out_of_set[np.isfinite(out_of_set)]
    if len(known) < MIN_COHORT:
        return None
    return float(np.quantile(known, 1 - max_false_accept_rate, method="higher"))


def evenly(count: int, most: int) -> Sequence[int]:
    """At most `most` of `count` places, evenly spaced."""
    if count <= most:
        return range(count)
    return [int(place) for place in np.linspace(0, count - 1, most).round()]
