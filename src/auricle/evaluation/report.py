"""The report of a run: every metric with its interval, the majority class and the instant baseline, as one dataclass.

report.json is this dataclass. Pages, model cards, trackers, the terminal and Python read its attributes. Nothing in it
depends on the clock, so the same recipe, data and machine give the same report; the Cost has the measured times.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from auricle.errors import RunError
from auricle.evaluation.calibration import CalibrationBin, CoveragePoint
from auricle.evaluation.duration import DurationAccuracy
from auricle.evaluation.error_analysis import ClipError, Slice
from auricle.evaluation.html import render
from auricle.evaluation.intervals import LEVEL, METHOD, Bootstrap, Interval
from auricle.evaluation.leakage import Leakage
from auricle.evaluation.metrics import ClassMetrics, ConfusedPair, SeedVariance
from auricle.evaluation.open_set import RejectionReport
from auricle.preparation.audit import Audit
from auricle.preparation.formatting import counted, percent
from auricle.recipe import Recipe
from auricle.run_folder import write_json


@dataclass(frozen=True)
class IntervalBasis:
    """What the intervals are over, `units` of `unit` (clip, or what a group is called), and how they were made.

    `resamples` is the number of bootstrap resamples behind their standard errors.
    """

    unit: str
    units: int
    resamples: int
    level: float
    method: str = METHOD

    @classmethod
    def of(cls, resampled: Bootstrap) -> "IntervalBasis":
        return cls(resampled.unit, resampled.units, len(resampled.counts), LEVEL)

    @property
    def description(self) -> str:
        """As in "7 speakers"."""
        return counted(self.units, self.unit)

    def caution(self, title: str, interval: Interval) -> list[str]:
        """Warn of an interval over these units that is not reliable."""
        if interval.reliable:
            return []
        return [
            f"Too little test data for a reliable 95 % interval of the {title} ({percent(interval.value)} over "
            f"{self.description}): it is a rough guide."
        ]


@dataclass(frozen=True)
class BaselineComparison:
    """The instant baseline on the same split; `gain` is what the model's metrics add to its metrics."""

    metrics: dict[str, Interval]
    gain: dict[str, Interval]
    is_this_model: bool


@dataclass(frozen=True)
class ProbeComparison:
    """The probe of a cached encoder on the same split; `gain` is what the model's metrics add to its metrics.

    `losses` are the log-losses on held-out training clips, in nats, of all encoders that were tried, by name: the
    least decided.
    """

    encoder: str
    metrics: dict[str, Interval]
    gain: dict[str, Interval]
    losses: dict[str, float]

    @property
    def advice(self) -> tuple[str, ...]:
        """Which recipe would have been better, where the paired difference in accuracy shows that one would."""
        gain = self.gain["accuracy"]
        if gain.high >= 0:
            return ()
        return (
            f"A probe of the frozen encoder {self.encoder} is {-100 * gain.value:.1f} points more accurate on these "
            f"clips ({Interval(-gain.value, -gain.high, -gain.low, gain.reliable).percents}). Train it: --recipe probe "
            f"--checkpoint {self.encoder}.",
        )


@dataclass(frozen=True)
class FoldMetrics:
    """The clips and results of one fold; `best_epoch` counts from 1, 0 is what training began from."""

    name: str
    train: int
    valid: int
    test: int
    accuracy: float
    balanced_accuracy: float
    baseline_accuracy: float
    best_epoch: int | None


@dataclass(frozen=True)
class CurvePoint:
    """One epoch of training; `valid` holds the validation metrics, None without validation clips."""

    epoch: int
    loss: float
    learning_rate: float
    valid: dict[str, float] | None


@dataclass(frozen=True)
class SplitSummary:
    """How the clips were split; `clips` counts those of the first fold by part: train, valid, test.

    `grouping` says which clips are kept together and why, `leakage` what a split without that would report.
    """

    kind: str
    description: str
    grouped: bool
    notes: tuple[str, ...]
    folds: int
    clips: dict[str, int]
    grouping: str = ""
    leakage: Leakage | None = None


@dataclass(frozen=True)
class CorpusSummary:
    """Where the recordings come from. `origin` is the last part of its path."""

    origin: str
    reader: str
    description: str
    license: str | None
    citation: str | None
    clips: int
    classes: int
    groups: int
    group_name: str


@dataclass(frozen=True)
class FrozenEncoder:
    """What a probe's fit chose of its encoder: layers, 0 being the embedding, and whether descriptors were joined.

    `layer_losses` are the log-losses on held-out training clips, in nats, of each layer alone, none where the recipe
    names the layers; `held_out_loss` is that of the choice. `license` is the encoder's, where the catalogue knows it.
    """

    layers: tuple[int, ...]
    joins_descriptors: bool
    layer_losses: tuple[float, ...]
    held_out_loss: float
    license: str | None

    @property
    def description(self) -> str:
        """As in "layer 3" or "layers 0, 2 to 4"."""
        runs: list[list[int]] = []
        for layer in sorted(self.layers):
            if runs and layer == runs[-1][-1] + 1:
                runs[-1].append(layer)
            else:
                runs.append([layer])
        listed = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
        return f"{'layer' if len(self.layers) == 1 else 'layers'} {listed}"


@dataclass(frozen=True)
class ModelSummary:
    """The kept model. `base_model` is the checkpoint that a pretrained one was fine-tuned from, or that a probe's
    frozen `encoder` is from, where it has a name.
    """

    type: str
    parameters: int
    sample_rate: int
    channels: int
    base_model: str | None = None
    pretrained: bool = False
    temperature: float = 1.0
    num_features: int | None = None
    encoder: FrozenEncoder | None = None

    @property
    def is_stock(self) -> bool:
        """Whether transformers alone can open it."""
        return not self.type.startswith("auricle-")


@dataclass(frozen=True)
class TrainingTotals:
    """How much training there was, over all folds and seeds; `batch_size` is the effective one."""

    audio_seconds: float
    trainings: int
    epochs: int
    steps: int
    batch_size: int


@dataclass(frozen=True)
class Hardware:
    """The machine, as far as it decides speed and rounding."""

    processor: str
    cores: int
    accelerator: str | None
    bf16: bool


@dataclass(frozen=True)
class Report:
    """One finished run. Fields with a `dict` of metrics are keyed by metric name, such as balanced_accuracy.

    `slices` are keyed by metadata column, `learning_curves` by fold. `accuracy_by_duration` is on center crops,
    `accuracy_by_clip_duration` on clips in full, by their own duration. `seeds` is None for a single seed, `probe`
    where no cached encoder was tried or the model is that probe; `probe_note` says why.
    """

    verdict: str
    cautions: tuple[str, ...]
    name: str
    family: str
    test_clips: int
    interval: IntervalBasis
    metrics: dict[str, Interval]
    majority: dict[str, float]
    baseline: BaselineComparison
    folds: tuple[FoldMetrics, ...]
    labels: tuple[str, ...]
    per_class: tuple[ClassMetrics, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    confused_pairs: tuple[ConfusedPair, ...]
    calibration: tuple[CalibrationBin, ...]
    risk_coverage: tuple[CoveragePoint, ...]
    rejection: RejectionReport | None
    accuracy_by_duration: tuple[DurationAccuracy, ...]
    accuracy_by_clip_duration: tuple[Slice, ...]
    slices: dict[str, tuple[Slice, ...]]
    misclassified: tuple[ClipError, ...]
    suspect_labels: tuple[ClipError, ...]
    learning_curves: dict[str, tuple[CurvePoint, ...]]
    audit: Audit
    split: SplitSummary
    corpus: CorpusSummary
    recipe: Recipe
    model: ModelSummary
    training: TrainingTotals
    versions: dict[str, str]
    hardware: Hardware
    seeds: SeedVariance | None = None
    probe: ProbeComparison | None = None
    probe_note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The content of report.json."""
        content: dict[str, Any] = pydantic.TypeAdapter(Report).dump_python(self, mode="json")
        return {**content, "audit": self.audit.as_json()}

    def save(self, path: Path) -> None:
        """Write report.json."""
        write_json(path, self.as_json())

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Read a report.json. Raises RunError for a file that is missing or is not one."""
        return _load(cls, path)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Report":
        """Read the content of a report.json. Raises RunError where a field is missing or wrong."""
        return _parse(cls, content, "The report")

    def summary_html(self, page: Path | None = None) -> str:
        """A small card for notebooks: the headline metrics, and a link to the report page where one is given."""
        return render("summary.html", report=self, page=page)

    def _repr_html_(self) -> str:
        return self.summary_html()


@dataclass(frozen=True)
class Cost:
    """Measured time and memory, which differ from run to run: cost.json. `shared_seconds` are spent once for all folds.

    `train_seconds` sum up the trainings, `run_seconds` are from the end of the preparation to the end of the run.
    """

    prepare_seconds: float
    shared_seconds: float
    train_seconds: float
    run_seconds: float
    clips_per_second: float
    peak_memory_mb: float | None = None

    def save(self, path: Path) -> None:
        """Write cost.json."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Cost":
        """Read a cost.json. Raises RunError for a file that is missing or is not one."""
        return _load(cls, path)


Kind = TypeVar("Kind")


def _load(kind: type[Kind], path: Path) -> Kind:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"'{path.parent}' has no {path.name} ({error.strerror}). Name the folder of a finished `auricle train`."
        ) from error
    except ValueError as error:
        raise RunError(f"'{path}' is not valid JSON: {error}.") from error
    return _parse(kind, content, f"'{path}'")


def _parse(kind: type[Kind], content: Any, origin: str) -> Kind:
    try:
        return pydantic.TypeAdapter(kind).validate_python(content)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise RunError(
            f"{origin} does not have the format of this version of auricle: '{field}', {fault['msg'].lower()}. Train "
            "again, or open it with the version that wrote it."
        ) from error
