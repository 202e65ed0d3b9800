"""What a microphone hears, piece by piece, as the page gets it.

In: the pieces of sound that a browser records, each a small file. Out: the last few seconds as one file to be asked
about, and the answers so far as events. The pieces keep their own rate: what is asked about is brought to the model's
rate in one go, so no seam between pieces is heard.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
import soundfile

from auricle.audio.decode import decode, resample

# A browser sends pieces of half a second; one much longer is no piece of a stream.
PIECE_SECONDS = 30.0


@dataclass(frozen=True, eq=False)
class Ear:
    """What was heard so far: the last samples int16 (frames,) at their rate, and how many there were in all."""

    window_seconds: float
    samples: np.ndarray
    sample_rate: int
    frames: int

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


def ear(window_seconds: float) -> Ear:
    """One that has heard nothing."""
    return Ear(window_seconds, np.zeros(0, np.int16), 1, 0)


def heard(before: Ear, piece: bytes) -> Ear:
    """Hear one more piece. Raises AudioError for one that is no sound; another rate begins anew."""
    sound = decode(piece, max_seconds=PIECE_SECONDS, name="microphone")
    samples = resample(sound, sound.sample_rate, 1)[0]
    if sound.sample_rate != before.sample_rate:
        before = replace(ear(before.window_seconds), sample_rate=sound.sample_rate)
    kept = np.concatenate([before.samples, samples])[-round(before.window_seconds * sound.sample_rate) :]
    return replace(before, samples=kept, frames=before.frames + len(samples))


def as_file(one: Ear) -> bytes:
    """The last seconds as the content of a wav file."""
    file = io.BytesIO()
    soundfile.write(file, one.samples, one.sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()
