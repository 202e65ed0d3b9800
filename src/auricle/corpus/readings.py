"""What a message says where it is not clear which field of the paths holds the class: each reading with its option.

In: paths, and the fields that may be the class. Out: a table of them, and a `--pattern` made of an actual file name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auricle.corpus.structure import Field

SEPARATORS = re.compile(r"[_\-.\s+,=@~]+")
KEY = re.compile(r"folder:(?P<folder>-?\d+)|name:(?P<name>-?\d+)(?:\.(?P<piece>\d+)|-(?P<last>\d+))?")


@dataclass(frozen=True)
class Corpus:
    """What messages say of a corpus: where it is, the folder that holds all recordings, and other folders, which
    hold no recordings.
    """

    location: str
    wrapper: str = ""
    empty_folders: str = ""


def readings(names: Sequence[str], corpus: Corpus, candidates: "Sequence[Field]") -> str:
    """The message: the fields that may be the class and the option for each, or that there is none."""
    pattern = pattern_example(names, candidates)
    name_parts = f" Or name the parts of the paths: `--pattern '{pattern}'`." if pattern else ""
    beside = f" No recordings are in {corpus.empty_folders}." if corpus.empty_folders else ""
    folders = {name.split("/")[0] for name in names if "/" in name}
    single = corpus.wrapper or (folders.pop() if len(folders) == 1 else "")
    if not candidates and single:
        return (
            f"'{corpus.location}' has a single class folder, '{single}' ({len(names)} recordings), and a classifier "
            f"needs two classes or more.{beside} Put each class in its own folder.{name_parts}"
        )
    if not candidates:
        return (
            f"'{corpus.location}' has {len(names)} recordings, such as '{names[0]}', and neither folders nor file "
            "names that look like classes. Put each class in its own folder, or add a metadata.csv with columns path "
            f"and label.{name_parts}"
        )
    rows = [("option", "classes", "clips", "classes such as", "example")]
    for item in candidates[:8]:
        common = ", ".join(value for value, _ in item.counts.most_common(3))
        rows.append((f"--label {item.key}", str(len(item.counts)), str(item.counts.total()), common, names[0]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    named = f"\nOr name the parts of the paths: --pattern '{pattern}'" if pattern else ""
    return (
        f"It is not clear what the classes of '{corpus.location}' are, so nothing is read. Choose one:\n{table}{named}"
    )


def pattern_example(names: Sequence[str], candidates: "Sequence[Field]" = ()) -> str:
    """A `--pattern` made of the first file name: its separators, and the part that may be the class as the label; of
    the folder where names have a single part. Empty where neither is possible.
    """
    keys = [match for item in candidates if (match := KEY.fullmatch(item.key)) and match["name"]]
    for name in names:
        stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
        texts = re.split(f"({SEPARATORS.pattern})", stem)
        parts = sum(map(bool, texts[::2]))
        if parts < 2 or set(stem) & set("{}"):
            continue
        number = int(keys[0]["name"]) if keys else 1 if parts == 2 else 2
        fields = [f"part{place}" for place in range(1, parts)] + ["take"]
        fields[number - 1 if 0 < number <= parts else max(number, -parts)] = "label"
        if fields[first := int(fields[0] == "label")].startswith("part"):
            fields[first] = "group"
        field = iter(fields)
        return (
            "".join(f"{{{next(field)}}}" if text and not place % 2 else text for place, text in enumerate(texts))
            + dot
            + suffix
        )
    folder = next((name for name in names if "/" in name), "")
    return f"{{label}}/{{take}}.{folder.rpartition('.')[2]}" if folder else ""
