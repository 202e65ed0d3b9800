"""Precomputed features, such as log-mel frames, in place of audio: PyTorch's `.pt` files, opened safely.

In: the content of a file and the declared shape. Out: DecodedAudio whose channels are the features and whose rate is
frames per second, so that one code path handles both; or an AudioError with the problem's kind. Nothing in a file is
executed (`weights_only`), and the memory that it may take is bounded by its own size before it is opened.
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
from auricle.audio.sniff import sniff, unusable
from auricle.errors import AudioError

CONTAINER = "frames"
SUFFIX = ".pt"
# The overhead of a file besides its numbers: names, checksums, alignment, and some frames beyond the maximum.
OVERHEAD_BYTES = 1 << 20
WIDEST_BYTES = 8
DTYPES = ("float16", "float32", "float64")
_ZIP = b"PK\x03\x04"
# The older format is a sequence of pickles of protocol 2; torch reads no other, and warns about them.
_PICKLE = b"\x80\x02"
# What torch raises for arbitrary bytes; none of these leaves any state behind.
_TORCH_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, ImportError, Warning, pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


def max_bytes(num_features: int, frame_rate: int, max_seconds: float) -> int:
    """The size of the largest allowed file, with the widest numbers."""
    return math.ceil(max_seconds * frame_rate) * num_features * WIDEST_BYTES + OVERHEAD_BYTES


def open_features(content: bytes, num_features: int, frame_rate: int, max_seconds: float) -> DecodedAudio:
    """Open a `.pt` file of a float tensor (frames, features): float32 samples (features, frames), unscaled.

    Raises AudioError: 'unreadable' (no tensor, or unsafe to open), 'feature_mismatch' (wrong type, shape or width),
    'empty' (no frames) or 'long'.
    """
    if not content:
        raise AudioError("empty", "the file has no bytes")
    if (fault := unusable(content, "")) is not None and fault[0] == "not_fetched":
        raise AudioError(*fault)
    size = _unpacked_bytes(content)
    if size > max_bytes(num_features, frame_rate, max_seconds):
        raise AudioError("long", f"{size} bytes, more than {max_seconds:g} s of {num_features} features per frame need")
    values = _tensor(content, size, num_features)
    if len(values) == 0:
        raise AudioError("empty", "the tensor has no frames")
    if len(values) > max_seconds * frame_rate:
        raise AudioError("long", f"{len(values)} frames, more than the maximum of {max_seconds:g} s")
    # Numbers beyond the range of float32 become infinite, which `check` reports.
    with np.errstate(over="ignore", invalid="ignore"):
        samples = np.ascontiguousarray(values.T, np.float32)
    return DecodedAudio(samples, frame_rate, CONTAINER)


def check(audio: DecodedAudio, *, declared: str | None, min_seconds: float) -> tuple[Finding, ...]:
    """Find every quality problem of opened features; `declared` is the number of frames in the corpus's table."""
    findings = []
    frames = audio.samples.shape[1]
    if declared is not None and declared != str(frames):
        findings.append(
            Finding("feature_mismatch", f"it has {frames} frames, and the corpus's table declares {declared}")
        )
    if audio.seconds < min_seconds:
        findings.append(Finding("short", f"{audio.seconds:.3f} s, the minimum is {min_seconds:g} s"))
    low, high = float(audio.samples.min()), float(audio.samples.max())
    if not (low > -LOUDEST and high < LOUDEST):
        findings.append(Finding("nan", f"some values are not finite, or beyond {LOUDEST:g}"))
    elif low == high:
        findings.append(Finding("constant", f"every value is {low:g}"))
    return tuple(findings)


def content_hash(audio: DecodedAudio) -> str:
    """Hash the values only, for torch writes a file's name into the file: 32 hexadecimal digits."""
    digest = hashlib.sha256(f"{CONTAINER} {audio.samples.shape} ".encode())
    digest.update(audio.samples.data)
    return digest.hexdigest()[:32]


def _unpacked_bytes(content: bytes) -> int:
    """The bytes in memory after opening: of the file or, where it is a zip archive, of its members."""
    if not content.startswith(_ZIP):
        return len(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return max(len(content), sum(member.file_size for member in archive.infolist()))
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise AudioError("unreadable", f"it starts like a {SUFFIX} file and is damaged: {error}") from error


def _tensor(content: bytes, size: int, num_features: int) -> np.ndarray:
    import torch

    try:
        if not content.startswith((_ZIP, _PICKLE)):
            raise pickle.UnpicklingError("not one of torch's two formats")
        tensor = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _TORCH_ERRORS as error:
        raise AudioError("unreadable", _open_error(content, error)) from error
    if not isinstance(tensor, torch.Tensor):
        raise AudioError(
            "unreadable", f"it contains a {type(tensor).__name__}; one tensor (frames, {num_features}) is expected"
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise AudioError(
            "feature_mismatch", "its tensor is sparse, quantized or has no values; a dense one is expected"
        )
    if dtype not in DTYPES:
        raise AudioError("feature_mismatch", f"its dtype is {dtype}; {', '.join(DTYPES)} are allowed")
    if tensor.dim() != 2 or tensor.shape[1] != num_features:
        raise AudioError(
            "feature_mismatch", f"its tensor is {tuple(tensor.shape)}, and (frames, {num_features}) is expected"
        )
    # A view can repeat one stored number a billion times.
    if tensor.numel() * tensor.element_size() > size:
        raise AudioError("feature_mismatch", f"its tensor is {tuple(tensor.shape)}, larger than its {size} bytes")
    values: np.ndarray = tensor.detach().numpy()
    return values


def _open_error(content: bytes, error: BaseException) -> str:
    container = sniff(content)
    if container:
        return f"it is audio ({container}); precomputed features are expected: a {SUFFIX} file with one tensor"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error).lower():
        return "it is damaged, or contains objects other than tensors, which could run arbitrary code when opened"
    # Torch writes pages; the first line suffices.
    message = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return f"it is not a readable {SUFFIX} file: {message}"
