"""`python -m benchmarks._load_clients PLAN`: many concurrent clients, by locust, in their own process.

In: a JSON plan: the URL, how many clients for how many seconds, and the requests with their expected responses. Out: a
JSON file with the counts of responses. A request is lost when the server accepted its connection and sent no complete
response; a refused connection was never accepted.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from locust import FastHttpUser, constant, task  # noqa: E402
from locust.env import Environment  # noqa: E402
from locust.exception import StopUser  # noqa: E402

BOUNDARY = "----auricle-load"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


class Results:
    """The responses so far."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.random = random.Random(0)
        self.clips = [(multipart(one["path"]), one) for one in plan["clips"]]
        self.invalid = [(multipart(one["path"]), one) for one in plan["invalid"]]
        self.seconds: list[float] = []
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.stopped = False

    def choose(self) -> tuple[bytes, dict[str, Any]]:
        """The next request: mostly clips, sometimes one that the server must reject."""
        is_invalid = self.invalid and self.random.random() < self.plan["invalid_share"]
        return self.random.choice(self.invalid if is_invalid else self.clips)

    def count(self, expected: dict[str, Any], status: int, text: str, seconds: float) -> None:
        if status == 429:
            self.counts["full"] += 1
            return
        if "status" in expected:
            self.counts["rejected correctly" if status == expected["status"] else "rejected wrongly"] += 1
            return
        correct = status == 200 and self.is_correct(expected, json.loads(text))
        self.counts["correct" if correct else "wrong"] += 1
        if correct:
            self.seconds.append(seconds)
        elif len(self.notes) < 5:
            self.notes.append(f"{status} {text[:300]}")

    def is_correct(self, expected: dict[str, Any], response: dict[str, Any]) -> bool:
        probabilities = {one["label"]: one.get("probability", one.get("score")) for one in response["choices"]}
        reference = expected["probabilities"]
        return probabilities.keys() == reference.keys() and all(
            abs(probabilities[label] - reference[label]) <= self.plan["tolerance"] for label in reference
        )


def multipart(path: str) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="clip"\r\n\r\n'
    return head.encode() + Path(path).read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


def clients(results: Results) -> type[FastHttpUser]:
    class Client(FastHttpUser):
        wait_time = constant(0)
        connection_timeout = network_timeout = 120.0

        @task
        def classify(self) -> None:
            if results.stopped:
                raise StopUser
            content, expected = results.choose()
            start = time.perf_counter()
            response = self.client.post(results.plan["path"], data=content, headers=HEADERS)
            if response.status_code:
                results.count(expected, response.status_code, response.text or "", time.perf_counter() - start)
                return
            if isinstance(response.error, ConnectionRefusedError):
                results.counts["not accepted"] += 1
                raise StopUser
            results.counts["lost"] += 1
            results.notes.append(repr(response.error))

    return Client


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    results = Results(plan)
    runner = Environment(user_classes=[clients(results)], host=plan["url"]).create_local_runner()
    start = time.perf_counter()
    runner.start(plan["clients"], spawn_rate=plan["clients"])
    while time.perf_counter() - start < plan["seconds"] and not results.counts["not accepted"] >= plan["clients"]:
        gevent.sleep(0.05)
    results.stopped = True
    while runner.user_count:
        gevent.sleep(0.05)
    seconds = time.perf_counter() - start
    summary = {"seconds": seconds, "latencies": results.seconds, "counts": results.counts, "notes": results.notes[:5]}
    Path(plan["out"]).write_text(json.dumps(summary), encoding="utf-8")


if __name__ == "__main__":
    main()
