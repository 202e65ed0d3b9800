"""The result of an export: export.json for programs, and the model card for people.

In: the graph's settings, the checks, and a summary of the run's report. Out: ExportResult, and README.md as text.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2

from auricle.evaluation.model_card import escaped
from auricle.evaluation.report import Report
from auricle.export.parity import ParityResult
from auricle.export.quantize import Int8Result
from auricle.models.runtime import ModelInfo


@dataclass(frozen=True)
class ExportResult:
    """What was exported and measured: export.json. `model` is the settings in the graph's metadata.

    `parity_clips` says where the compared clips come from. `int8` is None in float32, `report` for a bare model folder.
    """

    out: Path
    precision: str
    model: ModelInfo
    versions: dict[str, str]
    parity: ParityResult
    parity_clips: str
    parity_tolerance: float
    int8: Int8Result | None
    report: Report | None

    def to_json(self) -> str:
        """The text of export.json: all fields but `out`, since the folder may move, and a summary of the report."""
        fields = {name: value for name, value in vars(self).items() if name != "out"}
        if self.report is not None:
            corpus = self.report.corpus
            names = ("name", "metrics", "interval", "test_clips", "split")
            fields["report"] = {name: getattr(self.report, name) for name in names} | {
                "corpus": corpus.description,
                "license": corpus.license,
                "citation": corpus.citation,
            }
        return json.dumps({"format": "onnx", **fields}, default=asdict, indent=1, ensure_ascii=False)


def card(result: ExportResult) -> str:
    """The model card: the graph's inputs and outputs, how to run it, and how good the model is."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("auricle.export"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = lambda text: escaped(str(text))
    template = environment.get_template("card.md")
    return template.render(model=result.model, parity=result.parity, int8=result.int8, report=result.report)
