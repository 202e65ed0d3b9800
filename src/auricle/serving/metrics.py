"""The service's Prometheus metrics. Each service has its own registry, so that two in one process do not mix."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CLIPS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one service. `text` is the body of /metrics."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, buckets=SECONDS, registry=registry)
        self.requests = counter("auricle_requests", "Requests by route and status.", ("route", "status"))
        self.seconds = histogram("auricle_request_seconds", "Request latency by route.", ("route",))
        self.rejected = counter("auricle_rejected", "Rejected requests by reason.", ("reason",))
        self.queue_seconds = histogram("auricle_queue_seconds", "Time a clip waits in the queue.")
        self.batch_clips = histogram("auricle_batch_clips", "Clips or windows in a batch.", buckets=CLIPS)
        self.batch_seconds = histogram("auricle_batch_seconds", "Time to score a batch.")
        self.queue_depth = gauge("auricle_queue_depth", "Clips or windows in the queue.")
        self.in_progress = gauge("auricle_requests_in_progress", "Requests in progress.")
        self.body_bytes = gauge("auricle_body_bytes", "Bytes of request bodies in memory.")
        self.audio_seconds = counter("auricle_audio_seconds", "Seconds of audio decoded.")

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
