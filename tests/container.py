"""`python -m tests.container [RUN FILE…]`: the steps of the Dockerfile, done without a container engine.

In: the Dockerfile; a run, by default a small one on tones. Its ARG, ENV, WORKDIR, COPY and RUN lines are followed one
by one, their paths moved into a temporary folder; then its command serves an exported model, its health check asks, and
the answers are compared with PyTorch's. Not done here: the base image, and making the user. Needs PyPI.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tests import light_install
from tests.light_install import ROOT

# What a step may say of places: these lie in the image, and here below a temporary folder.
PLACES = ("/opt/auricle", "/src", "/model")
# Steps that change the machine itself: read, and not done here.
LEFT_OUT = ("useradd",)


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile: its word, and what follows it in one line."""

    word: str
    text: str


@dataclass
class Image:
    """What following the steps leads to."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    command: list[str] = field(default_factory=list)
    check: list[str] = field(default_factory=list)

    def place(self, text: str) -> str:
        """A text whose places lie below the root."""
        return re.sub(rf"(?<![\w.])({'|'.join(PLACES)})\b", lambda found: f"{self.root}{found.group(1)}", text)


def main() -> int:
    """Follow the Dockerfile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN")
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="auricle-image-") as folder:
        root = Path(folder) / "image"
        given = dict(one.split("=", 1) for one in options.build_arg)
        run, files = (options.run, options.files) if options.run else light_install.train(Path(folder))
        wanted = light_install.answers(
            light_install.auricle(sys.executable, "predict", str(run), *files, "--top", "1000", "--json")
        )
        image = build(steps((ROOT / "Dockerfile").read_text(encoding="utf-8")), root, given)
        light_install.auricle(sys.executable, "export", str(run), "--onnx", "--out", str(root / "model"))
        print(f"built: {light_install.megabytes(root / 'opt' / 'auricle'):.0f} MB installed")
        serve(image, files, wanted)
    print("container ok")
    return 0


def steps(text: str) -> list[Step]:
    """The instructions of a Dockerfile, in order, without comments and with joined lines."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    parted = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [Step(word.upper(), rest.strip()) for word, _, rest in parted]


def build(found: list[Step], root: Path, given: dict[str, str]) -> Image:
    """Follow the steps below a root; `given` are build arguments. Fails with the step that fails."""
    image = Image(root)
    (root / "bin").mkdir(parents=True)
    # The base image's Python is the one that this check runs with.
    (root / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    for step in found:
        if step.word == "FROM":
            image.environment, image.folder = {}, "/"
        elif step.word == "ARG":
            name, _, default = step.text.partition("=")
            image.arguments[name] = given.get(name, default)
        elif step.word == "ENV":
            pairs = (pair.split("=", 1) for pair in shlex.split(step.text))
            image.environment |= {name: image.place(_filled(value, image)) for name, value in pairs}
        elif step.word == "WORKDIR":
            image.folder = step.text
            Path(image.place(step.text)).mkdir(parents=True, exist_ok=True)
        elif step.word == "COPY":
            _copy(step.text, image)
        elif step.word == "RUN":
            _run(step.text, image)
        elif step.word == "HEALTHCHECK":
            image.check = json.loads(step.text.partition("CMD ")[2])
        elif step.word in ("ENTRYPOINT", "CMD"):
            image.command += json.loads(step.text)
    return image


def _filled(text: str, image: Image) -> str:
    known = {"PATH": os.environ["PATH"], **image.arguments, **image.environment}
    return re.sub(r"\$\{(\w+)\}", lambda found: known[found.group(1)], text)


def _copy(text: str, image: Image) -> None:
    *sources, target = [one for one in text.split() if not one.startswith("--")]
    if "--from" in text:
        return  # both stages lie in one folder here
    into = Path(image.place(image.folder)) / target
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / source, into)


def _run(text: str, image: Image) -> None:
    if text.split()[0] in LEFT_OUT:
        print(f"left out: RUN {text}")
        return
    print(f"RUN {text}", flush=True)
    subprocess.run(["/bin/sh", "-c", image.place(text)], check=True, cwd=image.place(image.folder), env=_around(image))


def _around(image: Image) -> dict[str, str]:
    """The environment of a step: the base image's, what pip needs to reach its index here, and what the file says."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    base = {"PATH": f"{image.root / 'bin'}:{os.environ['PATH']}", "HOME": tempfile.gettempdir()}
    return {**kept, **base, **image.arguments, **image.environment}


def serve(image: Image, files: list[str], wanted: light_install.Answers) -> None:
    """Start the image's command, ask its health check and the service, and stop it."""
    command = [image.place(one) for one in image.command]
    command[command.index("--host") + 1] = "127.0.0.1"
    command[command.index("--port") + 1] = "0"
    environment = {**_around(image), "PYTHONPATH": ""}
    done = subprocess.run(
        [image.place(one) for one in image.command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 2 or "no token" not in done.stderr:
        raise SystemExit(f"Without a token the image's command is not refused: {done.stderr}")
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None or not program.startswith(str(image.root)):
        raise SystemExit(f"'{command[0]}' is not what was installed: {program}")
    with light_install.service([program, *command[1:], "--json"], **environment) as url:
        check = [one.replace("http://127.0.0.1:8000/", url) for one in image.check]
        subprocess.run(check, check=True, env=environment)
        light_install.compare("auricle serve", {file: light_install.ask(url, Path(file)) for file in files}, wanted)
        with urllib.request.urlopen(url, timeout=light_install.WAIT) as page:
            print(f"page: {'yes' if '<gradio-app' in page.read().decode() else 'no'}")


if __name__ == "__main__":
    sys.exit(main())
