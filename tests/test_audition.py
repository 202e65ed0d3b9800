"""Auditions: several encoders and the baseline on the same folds, and the command that trains with the best."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import auricle
from auricle import recipes
from auricle.cli.main import main
from auricle.corpus.clip import Clip, Index
from auricle.corpus.split_kinds import cross_validation_kind
from auricle.errors import UsageError
from auricle.inference.run import resolve
from auricle.models import catalogue
from auricle.preparation.prepare import PreparedCorpus
from auricle.recipe import Data
from auricle.training import audition as auditions
from auricle.training.audition import BASELINE, train_command
from auricle.training.progress import ProgressReporter
from tests import checkpoints
from tests.conftest import RATE, usage_error, write_corpus
from tests.test_families import small_efficientat


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("tiny-hubert", tmp_path_factory.mktemp("checkpoints") / "tiny hubert")


@pytest.fixture(scope="module")
def corpus_of_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "my corpus")


class Seen:
    """What was decoded, and the corpus of each encoder."""

    def __init__(self) -> None:
        self.rates: list[int] = []
        self.corpora: dict[str, PreparedCorpus] = {}

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        decode, auditioned = auditions.decode, auditions._auditioned

        def watched_decode(*arguments: Any) -> PreparedCorpus:
            corpus = decode(*arguments)
            self.rates.append(corpus.store.settings.sample_rate)
            return corpus

        def watched(corpus: PreparedCorpus, name: str, *others: Any) -> Any:
            self.corpora[name] = corpus
            return auditioned(corpus, name, *others)

        patch.setattr(auditions, "decode", watched_decode)
        patch.setattr(auditions, "_auditioned", watched)


@pytest.fixture(scope="module")
def held(
    corpus_of_module: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[auricle.Audition, Seen, Path]:
    """An audition of two encoders of different sample rates, what it saw, and its cache."""
    seen, cache = Seen(), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURICLE_CACHE", str(cache))
        seen.watch(patch)
        result = auricle.audition(corpus_of_module, [str(tiny), str(small_efficientat())], group="name:1")
    return result, seen, cache


def test_all_are_compared_on_the_same_folds_decoded_once_per_rate(held: tuple[auricle.Audition, Seen, Path]) -> None:
    result, seen, _ = held
    assert sorted(seen.rates) == [RATE, 16_000, 32_000]
    assert list(seen.corpora) == [BASELINE, "tiny hubert", "mn01_as.safetensors"]
    splits = [corpus.split for corpus in seen.corpora.values()]
    assert splits[0].kind == "leave-one-group-out" and len(splits[0].folds) == 4
    assert all(split == splits[0] for split in splits)
    assert all(corpus.usable == seen.corpora[BASELINE].usable for corpus in seen.corpora.values())
    for run, facts in zip(result.comparison.runs, result.encoders, strict=True):
        assert run.name == facts.name and run.test_clips == 24 == result.clips == result.corpus_clips
        assert facts.sample_rate == seen.corpora[run.name].store.settings.sample_rate
        assert facts.seconds_per_clip > 0


def test_a_row_has_what_the_encoder_is(held: tuple[auricle.Audition, Seen, Path], tiny: Path) -> None:
    facts = {one.name: one for one in held[0].encoders}
    assert facts["tiny hubert"].checkpoint == str(tiny)
    assert facts[BASELINE].checkpoint is facts[BASELINE].parameters is facts[BASELINE].license is None
    for one in (facts["tiny hubert"], facts["mn01_as.safetensors"]):
        assert one.parameters and set(one.layers) <= set(range(one.num_layers)) and len(one.fold_layers) == 4
    best = held[0].best
    assert best.name == held[0].comparison.runs[0].name
    assert held[0].majority["balanced_accuracy"] == pytest.approx(1 / 3)


def test_a_row_is_what_training_reports(
    held: tuple[auricle.Audition, Seen, Path],
    corpus_of_module: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result, _, cache = held
    monkeypatch.setenv("AURICLE_CACHE", str(cache))
    rows = {run.name: run for run in result.comparison.runs}
    for name, settings in (
        ("tiny hubert", {"recipe": "probe", "checkpoint": tiny}),
        (BASELINE, {"recipe": "baseline"}),
    ):
        out = tmp_path / name
        run = auricle.train(corpus_of_module, out=out, group="name:1", split="leave-one-group-out", **settings)
        assert run.report.metrics == rows[name].metrics


def test_the_command_trains_with_the_best(
    held: tuple[auricle.Audition, Seen, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(held[0].command)
    assert words[:2] == ["auricle", "train"] and words[-2:] == ["--group", "name:1"]
    assert main([*words[1:], "--out", str(tmp_path / "run")]) == 0
    checkpoint = held[0].best.checkpoint
    assert recipes.load(tmp_path / "run" / "recipe.yaml").model.options.get("checkpoint") == checkpoint


def test_the_command_repeats_what_was_set_and_is_quoted(tmp_path: Path) -> None:
    pattern = "{group}_{label} {take}.wav"
    settings = {"pattern": pattern, "folds": 3, "strict": True, "seed": 7, "model__layers": [1, 2]}
    recipe = resolve("probe", settings)
    parsed = shlex.split(train_command("my corpus", recipe, "a b"))
    assert parsed[2:7] == ["my corpus", "--recipe", "probe", "--checkpoint", "a b"]
    from auricle.cli.main import _parser
    from auricle.cli.options import recipe_of

    (tmp_path / "x.wav").touch()
    options = _parser().parse_args([str(tmp_path / "x.wav") if word == "my corpus" else word for word in parsed[1:]])
    assert recipe_of(options) == recipe.replace("model", checkpoint="a b")
    alone = shlex.split(train_command("corpus", recipe, None))
    assert "baseline" in alone and "--checkpoint" not in alone and not any("model." in word for word in alone)


def test_everything_that_training_reports_of_the_corpus_is_reported(
    corpus: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "low" / "device0_900.wav").write_bytes(b"no audio")
    soundfile.write(corpus / "low" / "device1_901.wav", np.zeros(RATE), RATE)
    assert (
        main(["train", str(corpus), "--recipe", "baseline", "--folds", "5", "--out", str(corpus.parent / "run")]) == 0
    )
    reported = capsys.readouterr().out.split("Fold 1 of 5")[0].splitlines()
    assert len(reported) >= 4
    assert main(["audition", str(corpus), "--encoders", str(tiny)]) == 0
    printed = capsys.readouterr().out
    for line in reported:
        assert line.replace("audit.json", "`auricle inspect`") in printed


def test_the_output_has_all_rows_and_ends_with_the_command(
    corpus: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    words = ["audition", str(corpus), "--encoders", f"{tiny},{small_efficientat()}", "--folds", "3"]
    page = tmp_path / "page.html"
    assert main([*words, "--page", str(page), "--metric", "macro_f1"]) == 0
    printed = capsys.readouterr().out
    for text in ("tiny hubert", "mn01_as", BASELINE, "majority class", "macro f1", "balanced accuracy", "3 folds"):
        assert text in printed
    assert f"auricle train {corpus} --recipe " in printed
    assert "tiny hubert" in page.read_text(encoding="utf-8")
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["encoders"]] == [row["name"] for row in found["comparison"]["runs"]]
    assert shlex.split(found["command"])[-4:] == ["--split", "folds", "--folds", "3"]
    assert found["clips"] == 24 and any("24 clips, 3 classes" in note for note in found["notes"])


def test_a_large_corpus_is_sampled_by_class_with_a_message(tmp_path: Path, tiny: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", per_class=16)
    for path in sorted((corpus / "noise").glob("*.wav"))[2:]:
        path.unlink()
    result = auricle.audition(corpus, [str(tiny)], clips=12, group="none")
    assert result.corpus_clips == 34 and 12 <= result.clips <= 14
    assert f"A stratified sample of {result.clips} of 34 clips is used. To use all: `--clips 34`." in result.notes
    assert set(result.comparison.labels) == {"high", "low", "noise"}
    with pytest.raises(UsageError, match="`--clips 6`"):
        auricle.audition(corpus, [str(tiny)], clips=5)


def test_a_test_part_stays_unseen(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "test"):
        write_corpus(tmp_path / "corpus" / part, per_class=5)
    seen = Seen()
    seen.watch(monkeypatch)
    result = auricle.audition(tmp_path / "corpus", [str(tiny)], group="none")
    assert result.clips == 15 and any("test part, 15 clips, is not used" in note for note in result.notes)
    assert all("test/" not in clip.id for corpus in seen.corpora.values() for clip in corpus.index)
    assert auricle.audition(tmp_path / "corpus", [str(tiny)], split="predefined").split.startswith("the corpus' own")


def test_clips_that_are_usable_at_one_rate_only_are_left_out(tmp_path: Path) -> None:
    folder, rate = write_corpus(tmp_path / "corpus"), 44_100
    whistle = 0.3 * np.hanning(rate) * np.sin(2 * np.pi * 15_000 * np.arange(rate) / rate)
    soundfile.write(folder / "high" / "device0_999.wav", whistle, rate)
    by_name = {f"{rate}": recipes.load("baseline").replace("audio", sample_rate=rate) for rate in (rate, RATE)}
    data = auditions.read(folder, by_name[f"{RATE}"])
    messages: list[str] = []
    corpora = auditions._prepared(data, by_name, ProgressReporter(messages.append))
    assert any("Left out: 1 clip, such as 'high/device0_999.wav'" in message for message in messages)
    for corpus in corpora.values():
        ids = {clip.id for clip in corpus.usable}
        assert len(ids) == 24 == len(corpus.seconds(sorted(ids)))
        assert {id for fold in corpus.split.folds for id in (*fold.train, *fold.valid, *fold.test)} == ids


def index(rows: Sequence[tuple[str, str | None, str | None]]) -> Index:
    clips = tuple(Clip(f"{n}", f"{n}", label, group, fold) for n, (label, group, fold) in enumerate(rows))
    return Index(clips, "folder", "x", "x")


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([(label, group, None) for label in "ab" for group in "xyz"], "leave-one-group-out"),
        ([(label, f"{group}", None) for label in "ab" for group in range(11)], "folds"),
        ([(label, label + group, None) for label in "ab" for group in "xyz"], "leave-one-group-out"),
        ([(label, label, None) for label in "abc" for _ in range(3)], "folds"),
        ([(label, None, None) for label in "ab" for _ in range(3)], "folds"),
        ([(label, group, fold) for label in "ab" for group in "xyz" for fold in "12"], "auto"),
    ],
)
def test_how_every_clip_is_tested_once(rows: list[tuple[str, str | None, str | None]], kind: str) -> None:
    assert cross_validation_kind(index(rows), Data()) == kind
    assert cross_validation_kind(index(rows), Data(split="random")) == "random"
    assert cross_validation_kind(index(rows), Data(test_size=0.3)) == "auto"


def test_a_cheaper_encoder_that_cannot_be_told_from_the_best_is_named(
    held: tuple[auricle.Audition, Seen, Path],
) -> None:
    result = held[0]
    runs = result.comparison.runs
    costs = [
        replace(facts, seconds_per_clip=cost) for facts, cost in zip(result.encoders, (3.0, 2.0, 1.0), strict=True)
    ]

    def advice(distinguishable: tuple[bool, bool]) -> str:
        told = [replace(run, is_distinguishable=flag) for run, flag in zip(runs[1:], distinguishable, strict=True)]
        comparison = replace(result.comparison, runs=(runs[0], *told))
        return auditions._advice(comparison, costs, "data", recipes.load("probe"))

    assert advice((True, True)) == ""
    assert advice((False, True)).startswith(f"'{costs[1].name}' cannot be distinguished from '{costs[0].name}'")
    assert advice((False, False)).startswith(f"'{costs[2].name}'") and "1 s a clip instead of 3 s" in advice(
        (False, False)
    )


def never(*_: Any) -> Any:
    raise AssertionError("decoded")


def test_what_cannot_work_is_refused_before_decoding(
    corpus: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditions, "decode", never)
    refused: Callable[..., str] = lambda *words: usage_error(capsys, "audition", str(corpus), *words)  # noqa: E731
    message = refused("--encoders", f"{tiny},whisper-tinny.en")
    assert "No encoder named 'whisper-tinny.en'. Did you mean 'whisper-tiny.en'" in message
    assert "'clap'" in (message := refused("--encoders", "clap")) and "cannot be opened here" in message
    assert "more than once" in refused("--encoders", f"{tiny},{tiny}")
    assert "No metric named 'acuracy'. Did you mean 'accuracy'" in refused(
        "--encoders", str(tiny), "--metric", "acuracy"
    )
    assert "--page received" in refused("--page", "page.txt")
    assert "model.family received 'cnn'" in refused("--encoders", str(tiny), "--set", "model.family=cnn")
    assert "Name all encoders" in refused("--encoders", str(tiny), "--set", "model.checkpoint=mn04")
    assert "without config.json" in refused("--encoders", str(corpus))
    with pytest.raises(UsageError, match="Write a list"):
        auricle.audition(corpus, "whisper-tiny.en")


def test_without_names_the_cached_ones_are_compared(
    corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditions, "decode", never)
    statuses = catalogue.statuses()
    monkeypatch.setattr(catalogue, "statuses", lambda: [replace(status, cached=None) for status in statuses])
    assert "auricle encoders --fetch NAME" in usage_error(capsys, "audition", str(corpus))
    everything = [replace(status, cached=corpus) for status in statuses]
    monkeypatch.setattr(catalogue, "statuses", lambda: everything)
    assert auditions._checked([]) == [one.encoder.name for one in statuses if one.encoder.is_supported]


@pytest.mark.recordings
def test_speech_and_everyday_sounds_have_different_winners(recordings: Path, weights: Path) -> None:
    speech, sounds = weights / "whisper-tiny.en", weights / "mn04"
    for corpus, winner, loser in (("emodb", speech, sounds), ("esc10", sounds, speech)):
        result = auricle.audition(recordings / corpus, [str(speech), str(sounds)], clips=200, model__descriptors=False)
        assert result.best.name == winner.name and result.clips == 200
        assert shlex.split(result.command)[5:7] == ["--checkpoint", str(winner)]
        if corpus == "emodb":
            other = next(run for run in result.comparison.runs if run.name == loser.name)
            assert other.is_distinguishable and other.differences["accuracy"].high < 0
