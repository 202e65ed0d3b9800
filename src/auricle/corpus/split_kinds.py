"""The kinds of split, and options that were given and have no effect with the kind that is used.

In: the recipe's data section, whose `model_fields_set` names what was given; a recipe's own values are not given. Out:
an error before the corpus is read where the kind is known by then, else a sentence for the notes of the split.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from auricle.corpus.clip import Index
from auricle.errors import DataError, UsageError, unknown
from auricle.recipe import Data

KINDS = ("auto", "predefined", "holdout", "folds", "leave-one-group-out", "random")
# More trainings than these are said; a corpus' own folds with fewer clips than these each are refused.
MANY_FOLDS, FEWEST_CLIPS_A_FOLD = 10, 2.0
# A test part of fewer groups has no reliable interval: evaluation/intervals.py.
FEWEST_TEST_GROUPS = 5


def check_kind(data: Data) -> None:
    """Raise UsageError for an unknown kind of split, a missing split file or an option that the kind does not use,
    before the corpus is read.
    """
    kind, given = data.split, data.model_fields_set
    is_file = kind.endswith(".json")
    if is_file and not Path(kind).is_file():
        raise UsageError(f"There is no split file at '{kind}'. Give a split.json that auricle wrote.")
    if not is_file and kind not in KINDS:
        raise UsageError(unknown("split", kind, KINDS) + " A JSON file that auricle wrote works too.")
    if "folds" in given and kind != "folds":
        raise UsageError(_unused("folds", data.folds, kind, f"--split folds --folds {data.folds}"))
    if "test_size" in given and (is_file or kind in ("predefined", "folds", "leave-one-group-out")):
        raise UsageError(_unused("test_size", data.test_size, kind, f"--split holdout --test {data.test_size:g}"))
    if "validation_size" in given and is_file:
        holdout = f"--split holdout --set data.validation_size={data.validation_size:g}"
        raise UsageError(_unused("validation_size", data.validation_size, kind, holdout))
    if data.fold is not None and "fold" in given and kind not in ("auto", "predefined"):
        raise UsageError(_unused("fold", data.fold, kind, f"--split predefined --set data.fold={data.fold}"))


def _unused(key: str, value: object, kind: str, instead: str) -> str:
    typed = {"folds": "--folds", "test_size": "--test"}.get(key, f"--set data.{key}")
    return (
        f"data.{key} is {value!r}, and has no effect with the split '{kind}'. Choose one: `{instead}`, or "
        f"`--split {kind}` without `{typed}`."
    )


def unused_shares(data: Data, *, own_validation: bool) -> list[str]:
    """What to say of shares that were given for a corpus that is divided by its own split."""
    notes = []
    if "test_size" in data.model_fields_set:
        share = f"`--split holdout --test {data.test_size:g}`"
        notes.append(f"The split is the corpus' own, whatever the share of data.test_size. {share} divides all clips.")
    if own_validation and "validation_size" in data.model_fields_set:
        share = f"`--split holdout --set data.validation_size={data.validation_size:g}`"
        notes.append(
            f"The validation part is the corpus' own, whatever the share of data.validation_size. {share} divides all "
            "clips."
        )
    return notes


def check_own_folds(folds: Collection[str], clips: int, data: Data) -> None:
    """Raise DataError where a corpus' own folds would mean a training for every clip or two, unless they were asked
    for by name.
    """
    if data.split == "auto" and len(folds) > MANY_FOLDS and clips < FEWEST_CLIPS_A_FOLD * len(folds):
        raise DataError(
            f"The corpus' own folds have {len(folds)} values, such as '{min(folds)}', for {clips} clips: "
            f"{len(folds)} trainings, each tested on a clip or two. If they are groups, such as speakers, divide by "
            f"them: `--split folds --folds 5 --group fold`. Without them: `--split holdout`. To train {len(folds)} "
            "times: `--split predefined`."
        )


def without_own_parts(index: Index, data: Data, units: int, name: str) -> tuple[str, str]:
    """What `auto` means for a corpus without folds or parts of its own, whose groups make so many units, and why:
    folds where a single test part would hold too few of them, and there is one for each fold.
    """
    held = round(data.test_size * units)
    is_grouped = index.has_groups and all(clip.group is not None for clip in index)
    if not is_grouped or held >= FEWEST_TEST_GROUPS or units < data.folds or "test_size" in data.model_fields_set:
        return "holdout", ""
    return "folds", (
        f": a single test part would hold {max(1, held)} of {units} {name}, too few for a reliable interval; "
        "`--split holdout` trains once"
    )


def many_trainings(kind: str, folds: int, units: str) -> list[str]:
    """How many trainings a split means, where these are many."""
    if kind not in ("predefined", "leave-one-group-out") or folds <= MANY_FOLDS:
        return []
    fewer = "`--folds 5 --group fold`" if kind == "predefined" else "`--folds 5`"
    whole = "folds" if kind == "predefined" else units
    return [f"{folds} folds mean {folds} trainings. {fewer} means five, each tested on whole {whole}."]


def cross_validation_kind(index: Index, data: Data) -> str:
    """The split that tests every clip once, where the recipe leaves it to the corpus: `auto` for the corpus' own folds,
    else a few groups one by one, or folds.
    """
    own = {clip.fold or "train" for clip in index}
    if data.split != "auto" or "test_size" in data.model_fields_set or len(own) > 1:
        return data.split
    groups = {clip.group for clip in index}
    groups_of = Counter(label for label, _ in {(clip.label, clip.group) for clip in index})
    if None not in groups and 1 < len(groups) <= MANY_FOLDS and min(groups_of.values()) > 1:
        return "leave-one-group-out"
    return "folds"
