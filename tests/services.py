"""A service on this machine for tests: a small model behind its door, in a thread of this process."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from auricle import recipes
from auricle.inference.classifier import Classifier
from auricle.models.load import build_model
from auricle.serving.limits import Limits
from auricle.serving.serve import GracefulServer, ServerConfig, secure_app
from auricle.serving.service import InferenceService
from tests.conftest import RATE

LABELS = ("high", "low", "noise")


@dataclass(frozen=True)
class Service:
    """A service that runs, and a client of it."""

    inference: InferenceService
    client: httpx.Client
    port: int


class Slow(Classifier):
    """A classifier that takes its time, and says what it was given."""

    seconds = 0.0

    def logits(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        self.given = [*getattr(self, "given", []), *(clip.shape[-1] for clip in samples)]
        time.sleep(self.seconds)
        return super().logits(samples)


def small_classifier(kind: type[Classifier] = Classifier) -> Classifier:
    """A network that has learnt nothing: its answers are as exact as any other's."""
    settings = recipes.parse({"audio": {"sample_rate": RATE}, "model": {"size": "tutorial"}}, "test")
    return kind(build_model(settings, LABELS))


@contextlib.contextmanager
def service(classifier: Classifier, limits: Limits | None = None, token: str | None = None) -> Iterator[Service]:
    """Serve a classifier on a free port until the end of the block."""
    limits = limits or Limits()
    inference = InferenceService(classifier, limits, "small")
    app = secure_app(inference, ServerConfig(token=token, limits=limits), lambda app, service: None)
    server = GracefulServer(app, inference)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        port = listener.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.01)
            yield Service(inference, client, port)
    finally:
        server.should_exit = True
        thread.join()
