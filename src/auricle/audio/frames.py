"""Precomputed features, such as log-mel, that take the place of sound: PyTorch's `.pt` files, opened without trust.

In: the content of a file and what the corpus says of it. Out: DecodedAudio whose channels are the bands and whose rate is
frames per second, so that everything behind it goes one way; or an AudioError that names the fault. Nothing that a file
holds is executed (`weights_only`), and what it may take of memory is bounded by its own size before it is opened.
"""

import hashlib
import io
import math
import pickle
import struct
import zipfile

import numpy as np

from auricle.audio.decode import DecodedAudio
from auricle.audio.decoders import LOUDEST
from auricle.audio.quality import Finding
from auricle.audio.sniff import sniff
from auricle.errors import AudioError

CONTAINER = "frames"
SUFFIX = ".pt"
# What a file holds beside its numbers: names, checksums, alignment, and frames beyond those that are allowed.
SLACK_BYTES = 1 << 20
WIDEST_BYTES = 8
DTYPES = ("float16", "float32", "float64")
_ZIP = b"PK\x03\x04"
# The older format is a row of pickles of protocol 2; torch's reader knows no other, and complains aloud.
_PICKLE = b"\x80\x02"
# Whatever bytes can make torch's reader stumble over; none of these leaves anything half done.
_TORCH_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, ImportError, Warning, pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


def most_bytes(num_features: int, frame_rate: int, max_seconds: float) -> int:
    """The largest file that can hold what is allowed, in the widest numbers."""
    return math.ceil(max_seconds * frame_rate) * num_features * WIDEST_BYTES + SLACK_BYTES


def open_frames(content: bytes, *, num_features: int, frame_rate: int, max_seconds: float) -> DecodedAudio:
    """Open a `.pt` file of a float tensor (frames, bands): float32 samples (bands, frames) as they are, unscaled.

    Raises AudioError: 'unreadable' (no tensor, or nothing that may be opened), 'mismatch' (of another type, shape or
    width), 'empty' (no frames) or 'long'.
    """
    if not content:
        raise AudioError("empty", "the file has no bytes")
    size = _unpacked(content)
    if size > most_bytes(num_features, frame_rate, max_seconds):
        raise AudioError("long", f"{size} bytes, more than {max_seconds:g} s of {num_features} bands can take")
    values = _tensor(content, size, num_features)
    if len(values) == 0:
        raise AudioError("empty", "the tensor has no frames")
    if len(values) > max_seconds * frame_rate:
        raise AudioError("long", f"{len(values)} frames, more than the {max_seconds:g} s that are allowed")
    # Wider numbers that float32 cannot hold become infinite, and are found by that.
    with np.errstate(over="ignore", invalid="ignore"):
        samples = np.ascontiguousarray(values.T, np.float32)
    return DecodedAudio(samples, frame_rate, CONTAINER)


def find(sound: DecodedAudio, *, declared: str | None, min_seconds: float) -> tuple[Finding, ...]:
    """Say everything that is wrong with opened frames; `declared` is the number that the corpus' table promises."""
    findings = []
    frames = sound.samples.shape[1]
    if declared is not None and declared != str(frames):
        findings.append(Finding("mismatch", f"it has {frames} frames, and the corpus' table promises {declared}"))
    if sound.seconds < min_seconds:
        findings.append(Finding("short", f"{sound.seconds:.3f} s, at least {min_seconds:g} s are asked for"))
    low, high = float(sound.samples.min()), float(sound.samples.max())
    if not (low > -LOUDEST and high < LOUDEST):
        findings.append(Finding("nan", f"some values are no finite numbers, or beyond {LOUDEST:g}"))
    elif low == high:
        findings.append(Finding("dc", f"every value is {low:g}"))
    return tuple(findings)


def content_hash(sound: DecodedAudio) -> str:
    """Hash the values, whatever file they came in: 32 hexadecimal digits. Torch writes a file's name into the file."""
    digest = hashlib.sha256(f"{CONTAINER} {sound.samples.shape} ".encode())
    digest.update(sound.samples.data)
    return digest.hexdigest()[:32]


def _unpacked(content: bytes) -> int:
    """The bytes that opening takes: those of the file or, where it is an archive, of its members."""
    if not content.startswith(_ZIP):
        return len(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return max(len(content), sum(member.file_size for member in archive.infolist()))
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise AudioError("unreadable", f"its content begins like a {SUFFIX} file and is damaged: {error}") from error


def _tensor(content: bytes, size: int, num_features: int) -> np.ndarray:
    """The one float tensor (frames, bands) of a file as an array of its own type."""
    import torch

    try:
        if not content.startswith((_ZIP, _PICKLE)):
            raise pickle.UnpicklingError("neither of torch's two formats")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _TORCH_ERRORS as error:
        raise AudioError("unreadable", _why(content, error)) from error
    if not isinstance(found, torch.Tensor):
        raise AudioError(
            "unreadable", f"it holds a {type(found).__name__}, and one tensor (frames, {num_features}) is wanted"
        )
    kind = str(found.dtype).removeprefix("torch.")
    if found.layout != torch.strided or found.device.type != "cpu" or found.is_quantized:
        raise AudioError("mismatch", "its tensor is sparse, quantised or without values; a plain one is wanted")
    if kind not in DTYPES:
        raise AudioError("mismatch", f"its numbers are {kind}; {', '.join(DTYPES)} are allowed")
    if found.dim() != 2 or found.shape[1] != num_features:
        raise AudioError("mismatch", f"its tensor is {tuple(found.shape)}, and (frames, {num_features}) is wanted")
    # A view may repeat one stored number a billion times.
    if found.numel() * found.element_size() > size:
        raise AudioError("mismatch", f"its tensor is {tuple(found.shape)}, more than its {size} bytes can hold")
    values: np.ndarray = found.detach().numpy()
    return values


def _why(content: bytes, error: BaseException) -> str:
    container = sniff(content)
    if container:
        return f"it is sound ({container}), and precomputed features are wanted: a {SUFFIX} file with one tensor"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error).lower():
        return "it is damaged, or holds more than numbers, and to open that could run a stranger's code"
    # Torch writes pages; the first line says it.
    said = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return f"it is no {SUFFIX} file that can be opened: {said}"
