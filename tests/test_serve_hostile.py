"""What strangers send: requests made from the service's own OpenAPI document, and damaged files."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from auricle.audio.quality import KINDS
from auricle.serving.limits import Limits
from tests.services import Service, service, small_classifier
from tests.test_mutations import mutated, originals

FILES = 500
EXAMPLES = 15
ALL = list(HealthCheck)


@pytest.fixture(scope="module")
def served() -> Iterator[Service]:
    with service(small_classifier(), Limits(seconds=20.0)) as running:
        yield running


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("body", [None, originals()["flac"]], ids=["any body", "a sound"])
def test_the_document_is_kept_and_nothing_that_it_allows_breaks_the_service(
    served: Service, mode: GenerationMode, body: bytes | None
) -> None:
    document = schemathesis.openapi.from_url(f"http://127.0.0.1:{served.port}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) == 6
    statuses: Counter[int] = Counter()
    for operation in operations:
        if not operation.body and (mode.is_negative or body is not None):
            continue  # nothing can be asked wrongly of it
        given_body = {} if body is None else {"body": body, "media_type": "application/octet-stream"}

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=ALL)
        @given(case=operation.as_strategy(generation_mode=mode, **given_body))
        def keeps_its_word(case: schemathesis.Case) -> None:
            # No document can say which bytes are a sound.
            answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
            statuses[answer.status_code] += 1

        keeps_its_word()
    assert max(statuses) < 500 and set(statuses) - {200} and (200 in statuses or mode.is_negative)


def test_500_damaged_files_are_each_answered(served: Service) -> None:
    random = np.random.default_rng(11)
    made = originals()
    names = list(made)
    contents = [
        mutated(made[names[number % len(names)]], made[names[int(random.integers(len(names)))]], random)
        for number in range(FILES)
    ]
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    def asked(number: int) -> tuple[int, str]:
        content = contents[number]
        if number % 2:
            answer = served.client.post("/v1/classify", files={"file": (f"../{number}.wav", content)})
        else:
            answer = served.client.post("/v1/classify", content=content, params={"windows": 0.2, "events": True})
        found = json.loads(answer.text)
        if answer.status_code == 200:
            assert found["choices"] and 0 < found["probability"] <= 1
            return 200, ""
        assert found["error"]["detail"]
        return answer.status_code, found["error"]["kind"]

    with ThreadPoolExecutor(8) as pool:
        told = Counter(pool.map(asked, range(FILES)))
    assert {status for status, _ in told} == {200, 422}, told
    assert {kind for _, kind in told} <= {*KINDS, "", "channels", "rate"}
    assert FILES * 0.2 < told[200, ""] < FILES * 0.95
    assert served.client.get("/readyz").json() == {"status": "ready"}
    assert served.inference.in_progress == 0 and served.inference.held_bytes == 0
    if files:
        assert len(os.listdir("/proc/self/fd")) < files + 20, "files stay open"
