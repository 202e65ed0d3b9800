"""The service's Prometheus metrics. Each service has its own registry, so that two in one process do not mix."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CLIPS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one service. `text` is the body of /metrics."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "auricle_requests", "Requests by route and status.", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "auricle_request_seconds", "Request latency by route.", ("route",), buckets=SECONDS, registry=registry
        )
        self.rejected = Counter("auricle_rejected", "Rejected requests by reason.", ("reason",), registry=registry)
        self.queue_seconds = Histogram(
            "auricle_queue_seconds", "Time a clip waits in the queue.", buckets=SECONDS, registry=registry
        )
        self.batch_clips = Histogram(
            "auricle_batch_clips", "Clips or windows in a batch.", buckets=CLIPS, registry=registry
        )
        self.batch_seconds = Histogram(
            "auricle_batch_seconds", "Time to score a batch.", buckets=SECONDS, registry=registry
        )
        self.queue_depth = Gauge("auricle_queue_depth", "Clips or windows in the queue.", registry=registry)
        self.in_progress = Gauge("auricle_requests_in_progress", "Requests in progress.", registry=registry)
        self.body_bytes = Gauge("auricle_body_bytes", "Bytes of request bodies in memory.", registry=registry)
        self.audio_seconds = Counter("auricle_audio_seconds", "Seconds of audio decoded.", registry=registry)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
