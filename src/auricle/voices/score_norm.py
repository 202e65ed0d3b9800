"""Score normalisation (AS-norm) and thresholds: cosines, normalised against a cohort of other people.

A score counts in standard deviations above what impostors get: adaptive symmetric normalisation (Matejka et al. 2017,
"Analysis of score normalization in multilingual speaker recognition"). Embeddings have length 1.
"""

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

# The highest-scoring share of the cohort, within bounds: Matejka et al. find 200 to 500 of thousands best.
TOP_SHARE = 0.2
TOP_BOUNDS = (20, 300)
# With fewer impostors neither a mean of the highest scores nor a quantile means anything.
MIN_COHORT_CLIPS = 10
MIN_COHORT_SPEAKERS = 3
# A deviation among few people is mostly chance (measured: plain s-norm by 5 people doubled the EER of 5 others), so it
# is shrunk towards the deviation pooled over the cohort, which counts as so many speakers.
PRIOR_SPEAKERS = 30
_MIN_DEVIATION = 1e-3


@dataclass(frozen=True, eq=False)
class ScoreStatistics:
    """Mean and standard deviation (rows,) of the highest impostor scores of some embeddings."""

    mean: np.ndarray
    deviation: np.ndarray

    def normalise(self, scores: np.ndarray) -> np.ndarray:
        """Scores (…, rows) in deviations above the mean."""
        return np.asarray((scores - self.mean) / self.deviation)


@dataclass(frozen=True, eq=False)
class Cohort:
    """Clips of other people: embeddings (clips, width), their speakers, and the hashes of their audio.

    Clips of one speaker name are one person; where speakers are not known, each clip has a name of its own.
    """

    embeddings: np.ndarray
    speakers: tuple[str, ...]
    content_hashes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.speakers)

    @property
    def speaker_codes(self) -> np.ndarray:
        """The speakers as numbers (clips,)."""
        codes: np.ndarray = np.unique(np.array(self.speakers), return_inverse=True)[1].reshape(-1)
        return codes

    @functools.cached_property
    def pooled_deviation(self) -> float:
        """The standard deviation of impostor scores, pooled over all clips of the cohort."""
        codes = self.speaker_codes
        statistics = top_statistics(cosines(self.embeddings, self.embeddings), codes[:, None] != codes[None, :])
        return float(np.sqrt((statistics.deviation**2).mean()))

    def shrink(self, statistics: ScoreStatistics) -> ScoreStatistics:
        """Shrink deviations towards the pooled one: the more, the fewer people the cohort has."""
        own = len(set(self.speakers)) / (len(set(self.speakers)) + PRIOR_SPEAKERS)
        mixed = np.sqrt(own * statistics.deviation**2 + (1 - own) * self.pooled_deviation**2)
        return ScoreStatistics(statistics.mean, np.maximum(mixed, _MIN_DEVIATION))

    def select(self, keep: np.ndarray) -> "Cohort":
        """The clips for which `keep` (clips,) bool is true."""
        rows = np.flatnonzero(keep)
        return Cohort(
            self.embeddings[rows],
            tuple(self.speakers[row] for row in rows),
            tuple(self.content_hashes[row] for row in rows),
        )

    def impostor_mask(self, names: Collection[str], content_hashes: Collection[str]) -> np.ndarray:
        """Which clips (clips,) are of people other than these names and than the speakers of this audio."""
        hashes = set(content_hashes)
        pairs = zip(self.speakers, self.content_hashes, strict=True)
        known = set(names) | {speaker for speaker, content_hash in pairs if content_hash in hashes}
        return np.array([speaker not in known for speaker in self.speakers], dtype=bool)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosines (left, right) of embeddings (left, width) and (right, width) of length 1."""
    return left.astype(np.float64) @ right.astype(np.float64).T


def mean_embedding(embeddings: np.ndarray) -> np.ndarray:
    """One embedding (width,) of length 1 for a voice: the mean of its clips (clips, width)."""
    mean = embeddings.astype(np.float64).mean(0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


def top_statistics(
    scores: np.ndarray, mask: np.ndarray | None = None, cohort_sizes: np.ndarray | None = None
) -> ScoreStatistics:
    """Statistics of the highest of scores (rows, cohort), of which `mask` (the same shape) says which count.

    `cohort_sizes` (rows,) is how large the cohort is whose highest share counts; by default as many as the mask leaves.
    """
    counts = np.full(len(scores), scores.shape[1]) if mask is None else mask.sum(1)
    shares = np.clip(np.round(TOP_SHARE * (counts if cohort_sizes is None else cohort_sizes)), *TOP_BOUNDS)
    sizes = np.minimum(counts, shares).astype(int)
    most = max(1, int(sizes.max(initial=1)))
    ranked = -scores if mask is None else np.where(mask, -scores, np.inf)
    if ranked.shape[1] > most:
        ranked = np.partition(ranked, most - 1, axis=1)[:, :most]
    ranked = -np.sort(ranked, axis=1)
    counted = np.arange(ranked.shape[1])[None, :] < sizes[:, None]
    number = np.maximum(sizes, 1)
    mean = np.where(counted, ranked, 0.0).sum(1) / number
    residuals = np.where(counted, ranked - mean[:, None], 0.0)
    return ScoreStatistics(mean, np.maximum(np.sqrt((residuals**2).sum(1) / number), _MIN_DEVIATION))


def as_norm(voices: np.ndarray, tests: np.ndarray, cohort: Cohort, impostors: np.ndarray) -> np.ndarray:
    """Normalised scores (voices, tests); `impostors` (voices, cohort) says which clips are of other people.

    The other clips count on neither side: a voice's own clips in the cohort would set the level that its tests must
    exceed. NaN where a voice has no impostors.
    """
    test_scores, raw = cosines(tests, cohort.embeddings), cosines(voices, tests)
    voice_side = cohort.shrink(top_statistics(cosines(voices, cohort.embeddings), impostors))
    out = voice_side.normalise(raw.T).T
    for rows, clips in _groups_of_equal_masks(impostors):
        test_side = cohort.shrink(top_statistics(test_scores[:, clips]))
        out[rows] += test_side.normalise(raw[rows])
    return np.asarray(np.where(impostors.sum(1)[:, None] > 0, out / 2, np.nan))


def impostor_scores(voices: np.ndarray, impostors: np.ndarray, cohort: Cohort) -> np.ndarray:
    """Normalised scores (voices, cohort) of each cohort clip as an impostor of each voice; NaN where it is none.

    voices (voices, width); impostors (voices, cohort). The clip's own speaker is left out of the cohort that normalises
    its score, on both sides: a real impostor's own clips are not in the cohort.
    """
    codes = cohort.speaker_codes
    others = codes[:, None] != codes[None, :]
    raw, within = cosines(voices, cohort.embeddings), cosines(cohort.embeddings, cohort.embeddings)
    out = np.full(raw.shape, np.nan)
    for rows, clips in _groups_of_equal_masks(impostors):
        if len(np.unique(codes[clips])) < 2:
            continue
        test_side = cohort.shrink(top_statistics(within[np.ix_(clips, clips)], others[np.ix_(clips, clips)]))
        for row in rows:
            scores = raw[row, clips]
            voice_side = cohort.shrink(_leave_one_speaker_out(scores, codes[clips]))
            out[row, clips] = voice_side.normalise(scores) / 2 + test_side.normalise(scores) / 2
    return out


def _groups_of_equal_masks(masks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of equal masks (rows, cohort) together: the rows' numbers and the mask's clips. Skips empty masks."""
    patterns, pattern_of = np.unique(masks, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if pattern.any():
            yield np.flatnonzero(pattern_of.reshape(-1) == number), np.flatnonzero(pattern)


def _leave_one_speaker_out(scores: np.ndarray, codes: np.ndarray) -> ScoreStatistics:
    """Statistics of one voice's cohort scores (clips,) without each clip's own speaker, for each clip: (clips,)."""
    speakers, speaker_of = np.unique(codes, return_inverse=True)
    sizes = np.bincount(speaker_of.reshape(-1))
    # Whichever speaker is left out, the highest of the others are among these.
    reach = TOP_BOUNDS[1] + int(sizes.max())
    order = np.argsort(-scores, kind="stable")[:reach]
    others = codes[order][None, :] != speakers[:, None]
    # The share counts in the whole cohort without the speaker, not in its highest part.
    statistics = top_statistics(np.broadcast_to(scores[order], others.shape), others, len(scores) - sizes)
    return ScoreStatistics(statistics.mean[speaker_of.reshape(-1)], statistics.deviation[speaker_of.reshape(-1)])


def threshold(scores: np.ndarray, max_false_accept_rate: float) -> float | None:
    """The score that at most a share `max_false_accept_rate` of impostor scores exceed; None where there are too few.

    `scores` (any shape) may hold NaN. With fewer than 1 / max_false_accept_rate of them it is the highest score.
    """
    known = scores[np.isfinite(scores)]
    if len(known) < MIN_COHORT_CLIPS:
        return None
    return float(np.quantile(known, 1 - max_false_accept_rate, method="higher"))
