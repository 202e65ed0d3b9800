"""Which encoding bytes without a declaration are in, by evidence.

In: the content of a text file, or the names of all members of an archive together. Out: the text and its encoding. Byte
order marks and valid UTF-8 decide alone; otherwise each candidate is scored by how well its characters look like words:
frequent ideographs, letters next to letters of the same script, capitals only where words begin.
"""

import codecs
import unicodedata
from collections.abc import Iterable

from auricle.errors import DataError

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# The rows of the frequent characters in each multi-byte set: lead bytes of level 1.
_FREQUENT = {"gbk": (0xB0, 0xD7), "big5": (0xA4, 0xC6), "cp932": (0x88, 0x97), "cp949": (0xB0, 0xC8)}
WINDOWS = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256")
DOS = ("cp437", "cp850", "cp852", "cp866")
_RARE_LETTERS = frozenset("ðþÐÞºª")
# How much better than the best candidate of another script one must look; below that the choice is a guess.
_MARGIN = 0.15
_SAMPLE_CHARACTERS = 20_000


def decode(content: bytes, others: tuple[str, ...] = WINDOWS) -> tuple[str, str, str]:
    """The text, its encoding, and another encoding that is about as likely, or the empty text."""
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return content.decode(encoding, "replace"), encoding.removesuffix("-sig"), ""
    zeros = [content[start::2].count(0) for start in (0, 1)]
    if max(zeros) > 0.3 * len(content) / 2 and min(zeros) == 0:
        encoding = "utf-16-le" if zeros[1] else "utf-16-be"
        return content.decode(encoding, "replace"), encoding, ""
    try:
        return content.decode("utf-8"), "utf-8", ""
    except UnicodeDecodeError:
        return _by_evidence(content, others)


def names_encoding(names: Iterable[bytes], location: str) -> str:
    """The encoding of the names in an archive that declares none: "" for ASCII.

    Raises DataError where two are about as likely, for a wrong one makes other classes of the same files.
    """
    content = b"\n".join(names)
    if content.isascii():
        return ""
    _, encoding, rival = decode(content, (*DOS, *WINDOWS))
    if rival:
        example = next(name for name in content.splitlines() if not name.isascii())
        readings = [f"{other} ('{example.decode(other, 'replace')}')" for other in (encoding, rival)]
        raise DataError(
            f"'{location}' does not say in which encoding its names are, and they could be {' or '.join(readings)}. "
            f"Unpack it with the right one, `python -m zipfile --metadata-encoding {encoding} -e ARCHIVE FOLDER`, and "
            "give the folder."
        )
    return encoding


def _by_evidence(content: bytes, others: tuple[str, ...]) -> tuple[str, str, str]:
    # Each distinct line counts once: one class of a thousand files is no more evidence than one of ten.
    lines = b"\n".join(dict.fromkeys(line for line in content.splitlines() if not line.isascii()))
    scores = {}
    for number, encoding in enumerate((*_FREQUENT, *others)):
        try:
            text = lines.decode(encoding)[:_SAMPLE_CHARACTERS]
        except UnicodeDecodeError:
            continue
        scores[encoding] = (_plausibility(text, encoding) - 0.01 * number, _script(text))
    if not scores:
        return content.decode("cp1252", "replace"), "cp1252", "cp1250"
    best = max(scores, key=lambda encoding: scores[encoding][0])
    score, script = scores[best]
    rivals = {other: values[0] for other, values in scores.items() if values[1] != script}
    rival = max(rivals, key=lambda encoding: rivals[encoding]) if rivals else ""
    return content.decode(best, "replace"), best, rival if rival and score < rivals[rival] + _MARGIN else ""


def _plausibility(text: str, encoding: str) -> float:
    """The mean over the characters beyond ASCII of how usual each is where it is: -4 to 1."""
    padded = f" {text} "
    marks = [
        _character(padded[place - 1], padded[place], padded[place + 1], encoding)
        for place in range(1, len(padded) - 1)
        if padded[place] > "~"
    ]
    return sum(marks) / len(marks) if marks else 0.0


def _character(before: str, character: str, after: str, encoding: str) -> float:
    kind = unicodedata.category(character)
    if kind[0] == "C":
        return -4.0
    if encoding in _FREQUENT:
        return _ideograph(character, encoding) - 0.5 * (before.isascii() and before.isalpha())
    if kind[0] != "L" or character in _RARE_LETTERS:
        return -0.4 if kind[0] == "L" or kind == "So" else -0.1
    latin, cased = _script(character) == "LATIN", character.lower() != character.upper()
    ascii_near = (before.isascii() and before.isalpha()) or (after.isascii() and after.isalpha())
    if (not latin and ascii_near) or (cased and character.isupper() and before.islower()):
        return -1.0
    same_near = any(letter.isalpha() and _script(letter) == _script(character) for letter in (before, after))
    return 1.0 if ascii_near or (same_near and not latin) else 0.5 if same_near else 0.2


def _ideograph(character: str, encoding: str) -> float:
    name = unicodedata.name(character, "")
    if name.startswith("HALFWIDTH"):
        return -0.5
    if name.startswith(("HIRAGANA", "KATAKANA")):
        return 1.0 if encoding == "cp932" else -0.2
    first, last = _FREQUENT[encoding]
    lead, trail = character.encode(encoding).ljust(2, b"?")[:2]
    # What these sets later added for rare characters has lower second bytes.
    frequent = first <= lead <= last and (trail >= 0xA1 or encoding in ("big5", "cp932"))
    return 1.0 if frequent and character.isalpha() else 0.2 if name.startswith("FULLWIDTH") else -0.4


def _script(text: str) -> str:
    """The script of the first letter beyond ASCII, such as LATIN or HANGUL; with the text for ideographs."""
    letter = next((character for character in text if character > "~" and character.isalpha()), "")
    script = unicodedata.name(letter, "").split(" ")[0] if letter else ""
    return script + text if script == "CJK" and len(text) > 1 else script
