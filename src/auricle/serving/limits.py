"""What a service accepts, and RequestError, the one way in which a request is rejected, by HTTP and in the page."""

from dataclasses import dataclass

from auricle.errors import AuricleError, UsageError

MIB = 1 << 20
# The kinds of a RequestError that are not faults of the audio, and the status of each. Faults of audio are 422.
STATUS = {
    "query": 400,
    "body": 400,
    "token": 401,
    "slow": 408,
    "large": 413,
    "media": 415,
    "full": 429,
    "memory": 429,
    "deadline": 504,
}


class RequestError(AuricleError):
    """A request that is rejected. `kind` is one of STATUS, a kind of `audio.quality`, 'channels' or 'rate'."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.status = STATUS.get(kind, 422)


@dataclass(frozen=True)
class Limits:
    """What one request may have, and all of them together. Bytes, seconds, hertz.

    `requests` are in progress at once, from their first byte on; `held_bytes` bounds all bodies together. A request
    without an answer after `deadline` seconds is dropped, and its body must have come within `body_seconds`. `windows`
    is how many one answer may have; `threads`, which score, are as many as cores.
    """

    body_bytes: int = 64 * MIB
    held_bytes: int = 512 * MIB
    seconds: float = 600.0
    channels: int = 8
    sample_rate: int = 192_000
    requests: int = 128
    deadline: float = 30.0
    body_seconds: float = 20.0
    windows: int = 2000
    decoders: int = 2
    threads: int | None = None
    batch_clips: int = 16
    batch_seconds: float = 120.0
    batch_wait: float = 0.004

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise UsageError(f"The limit {name} received '{value}', and more than 0 is allowed.")

    @property
    def values(self) -> int:
        """How many samples of all channels one file may decode to: as long as allowed, in stereo at 48 kHz."""
        return round(self.seconds * 2 * 48_000)
