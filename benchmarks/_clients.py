"""`python -m benchmarks._clients PLAN`: many clients at once, by locust, in a process of their own.

In: a JSON plan: the address, how many clients for how many seconds, and for each thing that they may send the answer
that is right. Out: a JSON file with what came back. A request is lost when its connection was made and no whole answer
came; one whose connection was refused was never accepted.
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
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


class Tally:
    """What came back so far."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.random = random.Random(0)
        self.clips = [(form(one["path"]), one) for one in plan["clips"]]
        self.refusable = [(form(one["path"]), one) for one in plan["refused"]]
        self.seconds: list[float] = []
        self.kinds: Counter[str] = Counter()
        self.notes: list[str] = []
        self.over = False

    def draw(self) -> tuple[bytes, dict[str, Any]]:
        """What is sent next: mostly clips, and now and then something that is to be refused."""
        is_refused = self.refusable and self.random.random() < self.plan["refused_share"]
        return self.random.choice(self.refusable if is_refused else self.clips)

    def count(self, expected: dict[str, Any], status: int, text: str, seconds: float) -> None:
        if status == 429:
            self.kinds["full"] += 1
            return
        if "status" in expected:
            self.kinds["refused rightly" if status == expected["status"] else "refused wrongly"] += 1
            return
        right = status == 200 and self.is_right(expected, json.loads(text))
        self.kinds["right" if right else "wrong"] += 1
        if right:
            self.seconds.append(seconds)
        elif len(self.notes) < 5:
            self.notes.append(f"{status} {text[:300]}")

    def is_right(self, expected: dict[str, Any], found: dict[str, Any]) -> bool:
        chances = {one["label"]: one.get("probability", one.get("score")) for one in found["choices"]}
        wanted = expected["chances"]
        return chances.keys() == wanted.keys() and all(
            abs(chances[label] - wanted[label]) <= self.plan["tolerance"] for label in wanted
        )


def form(path: str) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="clip"\r\n\r\n'
    return head.encode() + Path(path).read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


def clients(tally: Tally) -> type[FastHttpUser]:
    class Client(FastHttpUser):
        wait_time = constant(0)
        connection_timeout = network_timeout = 120.0

        @task
        def ask(self) -> None:
            if tally.over:
                raise StopUser
            content, expected = tally.draw()
            start = time.perf_counter()
            answer = self.client.post(tally.plan["path"], data=content, headers=FORM)
            if answer.status_code:
                tally.count(expected, answer.status_code, answer.text or "", time.perf_counter() - start)
                return
            if isinstance(answer.error, ConnectionRefusedError):
                tally.kinds["not accepted"] += 1
                raise StopUser
            tally.kinds["lost"] += 1
            tally.notes.append(repr(answer.error))

    return Client


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    tally = Tally(plan)
    runner = Environment(user_classes=[clients(tally)], host=plan["url"]).create_local_runner()
    start = time.perf_counter()
    runner.start(plan["clients"], spawn_rate=plan["clients"])
    while time.perf_counter() - start < plan["seconds"] and not tally.kinds["not accepted"] >= plan["clients"]:
        gevent.sleep(0.05)
    tally.over = True
    while runner.user_count:
        gevent.sleep(0.05)
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, "latencies": tally.seconds, "kinds": tally.kinds, "notes": tally.notes[:5]}
    Path(plan["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
