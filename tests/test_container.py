"""What the container's files promise. `python -m tests.container` follows the Dockerfile's steps."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from auricle.cli.main import _parser
from tests.container import Step, build, steps
from tests.light_install import ROOT


@pytest.fixture(scope="module")
def dockerfile() -> list[Step]:
    return steps((ROOT / "Dockerfile").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = compose["services"]["auricle"]
    return found


def last(dockerfile: list[Step], word: str) -> str:
    return [step.text for step in dockerfile if step.word == word][-1]


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


def test_the_image_runs_as_a_user_without_rights(dockerfile: list[Step]) -> None:
    user = last(dockerfile, "USER")
    assert user.isdigit() and int(user) >= 1000
    made = next(step.text for step in dockerfile if step.text.startswith("useradd"))
    assert f"--uid {user} " in made and "nologin" in made
    words = [step.word for step in dockerfile]
    assert "RUN" not in words[words.index("USER") :] and "COPY" not in words[words.index("USER") :]


def test_the_image_says_whether_it_is_healthy(dockerfile: list[Step]) -> None:
    assert "/healthz" in last(dockerfile, "HEALTHCHECK") and "timeout=" in last(dockerfile, "HEALTHCHECK")
    assert last(dockerfile, "STOPSIGNAL") == "SIGTERM"


def test_only_the_two_stages_share_what_is_installed(dockerfile: list[Step]) -> None:
    assert [step.text.split(":")[0] for step in dockerfile if step.word == "FROM"] == ["python", "python"]
    assert "slim" in last(dockerfile, "FROM")
    final = dockerfile[[place for place, step in enumerate(dockerfile) if step.word == "FROM"][-1] :]
    assert [step.text for step in final if step.word == "COPY"] == ["--from=build /opt/auricle /opt/auricle"]


def test_the_extras_that_are_installed_exist_and_need_no_torch(dockerfile: list[Step]) -> None:
    default = next(step.text for step in dockerfile if step.text.startswith("EXTRAS=")).removeprefix("EXTRAS=")
    assert set(default.split(",")) <= extras() and "train" not in default
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for named in re.findall(r"EXTRAS=([\w,]+)", text):
        assert set(named.split(",")) <= extras()
    torch = next(step.text for step in dockerfile if step.word == "RUN" and "torch" in step.text)
    assert "https://download.pytorch.org/whl/${TORCH}" in torch and "--constraint constraints.txt" in torch


def test_what_the_image_runs_is_a_command_that_there_is(dockerfile: list[Step], service: dict[str, Any]) -> None:
    import json

    for command in (json.loads(last(dockerfile, "CMD")), service["command"]):
        options = _parser().parse_args(command)
        assert options.command == "serve" and str(options.run) == "/model" and options.host == "0.0.0.0"
        assert str(options.port) == last(dockerfile, "EXPOSE")


def test_no_secret_and_no_recording_can_get_into_the_image(dockerfile: list[Step], service: dict[str, Any]) -> None:
    assert not any(re.search(r"token|secret|passw|key", step.text, re.I) for step in dockerfile)
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"]
    copied = [step.text.split()[:-1] for step in dockerfile if step.word == "COPY" and "--from" not in step.text]
    assert sorted(kept) == sorted(name for names in copied for name in names)
    assert "*" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert all((ROOT / name).exists() for name in kept)
    assert "environment" not in service


def test_the_composed_service_is_closed(service: dict[str, Any]) -> None:
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert "--token-file" in service["command"] and service["mem_limit"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 30  # a request has 30 s


def test_steps_are_followed_in_a_folder_of_their_own(tmp_path: Path) -> None:
    text = (
        "ARG NAME=one\n# a comment\nFROM base AS build\nARG GREETING=hello\nWORKDIR /src\nENV WHO=${NAME}\n"
        'RUN echo "${GREETING} ${WHO}" \\\n    > /opt/auricle-said && mkdir -p /opt/auricle \\\n    && pwd > said\n'
        'FROM base\nENV PATH=/opt/auricle/bin:${PATH}\nENTRYPOINT ["auricle"]\nCMD ["serve", "/model"]\n'
    )
    text = text.replace("/opt/auricle-said", "/src/greeting")
    image = build(steps(text), tmp_path, {"GREETING": "good day"})
    assert (tmp_path / "src" / "greeting").read_text() == "good day one\n"
    assert (tmp_path / "src" / "said").read_text() == f"{tmp_path}/src\n"
    assert image.environment["PATH"].startswith(f"{tmp_path}/opt/auricle/bin:") and "WHO" not in image.environment
    assert image.command == ["auricle", "serve", "/model"] and shlex.join(image.command)
