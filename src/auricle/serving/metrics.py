"""What a service counts of itself, for Prometheus. One set for one service, so that two in a process do not mix."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CLIPS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters. `text` is what /metrics answers."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "auricle_requests", "Requests answered, by route and status.", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "auricle_request_seconds",
            "From a request's head to its answer.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.rejected = Counter(
            "auricle_rejected",
            "Requests turned down, by the reason that they were told.",
            ("reason",),
            registry=registry,
        )
        self.queue_seconds = _histogram(
            "auricle_queue_seconds", "How long a clip waits to be scored.", SECONDS, registry
        )
        self.batch_clips = _histogram("auricle_batch_clips", "Clips or windows scored together.", CLIPS, registry)
        self.batch_seconds = _histogram("auricle_batch_seconds", "How long scoring a batch takes.", SECONDS, registry)
        self.queue_depth = Gauge("auricle_queue_depth", "Clips or windows that wait to be scored.", registry=registry)
        self.under_way = Gauge("auricle_requests_under_way", "Requests that have a turn.", registry=registry)
        self.held_bytes = Gauge("auricle_held_bytes", "Bytes of the bodies held.", registry=registry)
        self.audio_seconds = Counter("auricle_audio_seconds", "Seconds of sound decoded.", registry=registry)

    def text(self) -> bytes:
        """Everything that was counted, in Prometheus' format."""
        return generate_latest(self.registry)


def _histogram(name: str, help: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> Histogram:
    return Histogram(name, help, buckets=buckets, registry=registry)
