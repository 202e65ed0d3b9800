"""Splits: no group crosses, every class gets its share, a file is checked."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from auricle import recipes
from auricle.corpus import splits
from auricle.corpus.clip import Clip, Index
from auricle.errors import DataError, UsageError
from auricle.recipe import Data


def index(groups: int = 10, per_group: int = 12, classes: int = 3, folds: int = 0) -> Index:
    clips = tuple(
        Clip(
            id=f"{group}-{number}.wav",
            source="",
            label="abc"[number % classes],
            group=f"s{group}" if groups > 1 else None,
            fold=str(group % folds + 1) if folds else None,
        )
        for group in range(groups)
        for number in range(per_group)
    )
    return Index(clips, "folder", "test", "test", group_name="speaker")


def groups_of(index: Index, ids: tuple[str, ...]) -> set[str | None]:
    by_id = {clip.id: clip.group for clip in index}
    return {by_id[id] for id in ids}


@pytest.mark.parametrize("kind", ["holdout", "folds", "leave-one-group-out"])
def test_no_group_crosses_and_every_clip_is_used(kind: str) -> None:
    corpus = index()
    split = splits.make(corpus, Data(split=kind))
    assert split.grouped
    for fold in split.folds:
        parts = [groups_of(corpus, part) for part in (fold.train, fold.valid, fold.test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert sorted((*fold.train, *fold.valid, *fold.test)) == sorted(clip.id for clip in corpus)


def test_folds_test_every_clip_once() -> None:
    corpus = index()
    for kind in ("folds", "leave-one-group-out"):
        tested = [id for fold in splits.make(corpus, Data(split=kind)).folds for id in fold.test]
        assert sorted(tested) == sorted(clip.id for clip in corpus)


@pytest.mark.parametrize(
    ("groups", "kind"), [(4, "holdout"), (5, "folds"), (22, "folds"), (23, "holdout"), (40, "holdout")]
)
def test_few_groups_are_all_tested_and_many_are_sampled(groups: int, kind: str) -> None:
    """A fifth of 22 groups is four, of 23 five: enough for a reliable interval."""
    corpus = index(groups=groups)
    split = splits.make(corpus, Data())
    assert split.kind == kind
    assert split.description.endswith("`--split holdout` trains once") == (kind == "folds")
    assert not any("single test part" in note for note in split.notes), "a reason, no caution"
    tested = [id for fold in split.folds for id in fold.test]
    assert len(tested) == len(set(tested)) and (kind == "holdout" or len(tested) == len(corpus))
    assert splits.make(corpus, Data(test_size=0.2)).kind == "holdout"


def test_shares_of_classes_are_even_without_groups() -> None:
    corpus = index(groups=1, per_group=300)
    fold = splits.make(corpus, Data(test_size=0.2, validation_size=0.1)).folds[0]
    label_of = {clip.id: clip.label for clip in corpus}
    assert Counter(label_of[id] for id in fold.test) == {"a": 20, "b": 20, "c": 20}
    assert Counter(label_of[id] for id in fold.valid) == {"a": 10, "b": 10, "c": 10}


def test_a_rare_class_reaches_every_part_it_can() -> None:
    clips = [Clip(f"{number}", "", "common") for number in range(100)]
    clips += [Clip(f"rare{number}", "", "rare") for number in range(10)]
    fold = splits.make(Index(tuple(clips), "folder", "t", "t"), Data(test_size=0.2, validation_size=0.1)).folds[0]
    assert sum(id.startswith("rare") for id in fold.test) == 2
    assert sum(id.startswith("rare") for id in fold.valid) == 1


def test_the_same_seed_gives_the_same_split_and_another_another() -> None:
    corpus = index()
    assert splits.make(corpus, Data(seed=1)) == splits.make(corpus, Data(seed=1))
    assert splits.make(corpus, Data(seed=1)).folds != splits.make(corpus, Data(seed=2)).folds


def test_own_folds_are_kept_and_validation_comes_out_of_training() -> None:
    corpus = index(groups=10, folds=5)
    split = splits.make(corpus, Data(validation_size=0.2))
    assert split.kind == "predefined" and len(split.folds) == 5
    by_id = {clip.id: clip for clip in corpus}
    for fold in split.folds:
        assert {by_id[id].fold for id in fold.test} == {fold.name}
        assert all(by_id[id].fold != fold.name for id in (*fold.train, *fold.valid))
        assert fold.valid and not groups_of(corpus, fold.train) & groups_of(corpus, fold.valid)


def test_own_train_and_test_parts_are_kept() -> None:
    clips = tuple(
        Clip(f"{number}", "", "ab"[number % 2], fold=("train", "train", "test")[number % 3]) for number in range(60)
    )
    fold = splits.make(Index(clips, "folder", "t", "t"), Data(validation_size=0.1)).folds[0]
    assert {int(id) % 3 for id in fold.test} == {2} and 0 < len(fold.valid) < 10


def test_linked_duplicates_stay_on_one_side() -> None:
    corpus = index(groups=1, per_group=60)
    duplicate_groups = [(f"0-{number}.wav", f"0-{number + 30}.wav") for number in range(30)]
    fold = splits.make(corpus, Data(), duplicate_groups).folds[0]
    side = {id: name for name in splits.PARTS for id in getattr(fold, name)}
    assert all(side[a] == side[b] for a, b in duplicate_groups)


def test_copies_in_another_group_are_not_trained_on_and_do_not_join_the_groups() -> None:
    corpus = index(groups=6, per_group=12)
    duplicate_groups = [("0-0.wav", "1-0.wav"), ("1-1.wav", "2-1.wav"), ("2-2.wav", "3-2.wav")]
    split = splits.make(corpus, Data(split="leave-one-group-out"), duplicate_groups)
    assert len(split.folds) == 6
    for fold in split.folds:
        for a, b in duplicate_groups:
            assert not ({a, b} & set(fold.test) and {a, b} & {*fold.train, *fold.valid})
    assert "not trained on" in split.notes[-1]
    tested = [id for fold in split.folds for id in fold.test]
    assert sorted(tested) == sorted(clip.id for clip in corpus)


def test_a_random_split_on_groups_is_done_and_says_what_it_is_worth() -> None:
    split = splits.make(index(), Data(split="random"))
    assert not split.grouped
    assert "10 of 10 speakers are on both sides" in split.notes[0]


def test_a_saved_split_comes_back_and_passes_over_quarantined_clips(tmp_path: Path) -> None:
    corpus = index()
    split = splits.make(corpus, Data())
    split.save(tmp_path / "split.json")
    assert splits.load(tmp_path / "split.json", corpus).folds == split.folds
    out = split.folds[0].train[0]
    fewer = corpus.select([clip.id != out for clip in corpus])
    loaded = splits.make(fewer, Data(split=str(tmp_path / "split.json")), quarantined={out})
    assert out not in loaded.folds[0].train and len(loaded.folds[0].train) == len(split.folds[0].train) - 1


def test_a_hand_written_split_with_groups_on_both_sides_says_so(tmp_path: Path) -> None:
    corpus = index(groups=2, per_group=6)
    ids = [clip.id for clip in corpus]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"folds": [{"train": ids[:8], "test": ids[8:]}]}))
    split = splits.load(path, corpus)
    assert not split.grouped and "1 speakers" in split.notes[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not a split file"),
        ('{"folds": [{"train": ["0-0.wav"], "test": ["0-0.wav"]}]}', "more than one part"),
        ('{"folds": [{"train": ["0-0.wav", "0-1.wav"], "test": ["other.wav"]}]}', "'other.wav'"),
        ('{"folds": [{"train": ["0-0.wav", "0-1.wav"], "test": []}]}', "no test clips"),
        ('{"folds": []}', "no folds"),
    ],
)
def test_a_bad_split_file_is_refused_with_its_fault(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(DataError, match=told):
        splits.load(path, index())


def test_what_cannot_be_split_is_said() -> None:
    with pytest.raises(UsageError, match="Did you mean 'holdout'"):
        splits.make(index(), Data(split="holdot"))
    with pytest.raises(DataError, match="--group FIELD"):
        splits.make(index(groups=1), Data(split="leave-one-group-out"))
    with pytest.raises(DataError, match="no folds or split of its own"):
        splits.make(index(), Data(split="predefined"))
    with pytest.raises(DataError, match=r"50 folds need as many speakers, and there are 10. Use fewer: `--folds 10`"):
        splits.make(index(), Data(split="folds", folds=50))
    with pytest.raises(UsageError, match="leave nothing to train on"):
        splits.make(index(), Data(validation_size=0.4, test_size=0.8))


def test_a_share_that_the_own_split_does_not_use_is_said() -> None:
    notes = splits.make(own_parts("train", "test"), Data(test_size=0.3)).notes
    assert any("`--split holdout --test 0.3` divides all clips" in note for note in notes)
    given = splits.make(own_parts("train", "test"), recipes.load("genre", values={"test": 0.2}).data).notes
    assert any("--test 0.2" in note for note in given)  # the default value, and given all the same
    assert not splits.make(own_parts("train", "test"), recipes.load("genre").data).notes  # the recipe's own share
    notes = splits.make(own_parts("train", "valid", "test"), Data(validation_size=0.3)).notes
    assert any("`--split holdout --set data.validation_size=0.3`" in note for note in notes)


def own_folds(folds: int, per_fold: int) -> Index:
    clips = index(groups=folds, per_group=per_fold, folds=folds).clips
    return Index(tuple(replace(clip, label="abc"[n % 3]) for n, clip in enumerate(clips)), "folder", "test", "test")


def test_own_folds_of_a_clip_each_are_refused_and_many_folds_are_counted() -> None:
    with pytest.raises(DataError, match=r"24 trainings.*--group fold.*--split holdout.*--split predefined"):
        splits.make(own_folds(24, 1), Data())
    split = splits.make(own_folds(24, 1), Data(split="predefined"))  # asked for by name
    assert len(split.folds) == 24 and any("24 trainings" in note for note in split.notes)
    many = splits.make(own_folds(200, 4), Data())
    assert len(many.folds) == 200 and any("200 trainings" in note and "--folds 5" in note for note in many.notes)
    assert not any("trainings" in note for note in splits.make(own_folds(10, 4), Data()).notes)
    left_out = splits.make(index(groups=12), Data(split="leave-one-group-out"))
    assert any("12 trainings. `--folds 5` means five, each tested on whole speakers" in n for n in left_out.notes)


def test_dealing_fills_parts_by_their_shares_for_many_seeds() -> None:
    corpus = index(groups=40, per_group=9)
    for seed in range(20):
        fold = splits.make(corpus, Data(seed=seed, test_size=0.25, validation_size=0.15)).folds[0]
        shares = np.array([len(fold.train), len(fold.valid), len(fold.test)]) / len(corpus)
        assert np.abs(shares - [0.6, 0.15, 0.25]).max() < 0.03


def own_parts(*folds: str | None, classes: int = 2) -> Index:
    """Twelve clips for each of the folds, without groups."""
    clips = tuple(
        Clip(f"{place}-{number}.wav", "", "abc"[number % classes], fold=fold)
        for place, fold in enumerate(folds)
        for number in range(12)
    )
    return Index(clips, "table", "corpus", "test")


@pytest.mark.parametrize("part", ["train", "valid", "test", "1"])
def test_a_corpus_with_one_part_gets_the_others_made_from_it(part: str) -> None:
    split = splits.make(own_parts(part), Data())
    fold = split.folds[0]
    assert split.kind == "holdout" and fold.train and fold.test
    assert len(fold.train) + len(fold.valid) + len(fold.test) == 12
    assert split.notes[0] == f"The corpus has a '{part}' part only, so the other parts are made from it."


def test_a_further_part_and_clips_in_no_part_are_named_with_what_happens_to_them() -> None:
    split = splits.make(own_parts("train", "test", "extra", None), Data(validation_size=0))
    fold = split.folds[0]
    assert (len(fold.train), len(fold.test)) == (24, 12)
    assert any("12 clips are in no part" in note and "trained on" in note for note in split.notes)
    assert any("'extra' (12 clips) is neither trained nor tested on" in note for note in split.notes)


def test_what_is_in_no_part_or_no_test_part_is_said() -> None:
    split = splits.make(own_parts("1", "2", None), Data(validation_size=0))
    assert [(fold.name, len(fold.train)) for fold in split.folds] == [("1", 24), ("2", 24)]
    assert any("12 clips are in none of the corpus' own folds" in note for note in split.notes)
    assert "it has no test part" in splits.make(own_parts("train", "valid"), Data()).description
    some = Index(tuple(replace(clip, group=clip.fold) for clip in own_parts("a", "b", None)), "table", "corpus", "test")
    notes = splits.make(some, Data(split="leave-one-group-out")).notes
    assert any("12 clips without a group: they are trained on and never tested." in note for note in notes)


def test_classes_that_are_only_tested_or_never_tested_are_named() -> None:
    clips = own_parts("train", "test", classes=3).clips
    only_test = Index(tuple(c for c in clips if (c.fold, c.label) != ("train", "c")), "table", "corpus", "test")
    notes = splits.make(only_test, Data()).notes
    assert any(note.startswith("Tested but not trained on: 'c'.") for note in notes)
    only_train = Index(tuple(c for c in clips if (c.fold, c.label) != ("test", "c")), "table", "corpus", "test")
    assert any(note.startswith("Not in the test part: 'c'.") for note in splits.make(only_train, Data()).notes)


def test_what_the_groups_leave_open_is_noted() -> None:
    some = Index(
        tuple(
            replace(clip, group="s1" if place < 6 else f"s{place % 4}" if place % 3 else None)
            for place, clip in enumerate(own_parts(None, None))
        ),
        "table",
        "corpus",
        "test",
        group_name="speaker",
    )
    assert any("clips without a speaker" in note for note in splits.make(some, Data()).notes)
    one = Index(tuple(replace(clip, group="anna") for clip in own_parts(None, None)), "table", "corpus", "test")
    coincide = Index(tuple(replace(clip, group=f"s{clip.label}") for clip in one), "table", "corpus", "test")
    for index, expected in (
        (one, "All clips are of one group, 'anna'"),
        (coincide, "Each class has one group of its own"),
    ):
        split = splits.make(index, Data(validation_size=0, split="holdout"))
        assert not split.grouped and any(expected in note for note in split.notes)
        assert {clip.label for clip in index if clip.id in split.folds[0].train} == {"a", "b"}


def test_each_class_of_two_clips_is_trained_and_tested() -> None:
    clips = tuple(Clip(f"{number}.wav", "", f"bird{number // 2:02d}") for number in range(80))
    fold = splits.make(Index(clips, "folder", "corpus", "test"), Data()).folds[0]
    label_of = {clip.id: clip.label for clip in clips}
    for part in (fold.train, fold.test):
        assert {label_of[id] for id in part} == {f"bird{number:02d}" for number in range(40)}


def test_clips_that_a_split_file_does_not_name_are_counted(tmp_path: Path) -> None:
    corpus = index(groups=6, per_group=6, classes=3)
    ids = [clip.id for clip in corpus if clip.label != "c"]
    content = {"folds": [{"train": ids[:16], "test": ids[16:20]}]}
    (tmp_path / "split.json").write_text(json.dumps(content))
    notes = splits.load(tmp_path / "split.json", corpus).notes
    assert any(f"{len(corpus) - 20} clips are in no part of this split" in note for note in notes)
    assert any("Neither trained nor tested on: 'c'. `--set 'data.excluded_classes=[c]'`" in note for note in notes)
