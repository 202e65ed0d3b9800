"""`python -m tests.light_install [RUN FILE…]`: an exported model runs without PyTorch, with the same answers.

In: a run and recordings, by default a small one on tones made here. It is exported and run with PyTorch in this
environment; then the checkout is installed into a new one with `[onnx]` alone, then `[serve]`, then `[demo]` beside it.
Out: what was checked, line by line; it ends with 1 where an answer differs by more than 1e-4. Needs PyPI.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4
HEAVY = ("torch", "transformers", "sklearn", "datasets", "accelerate")
WAIT = 60.0

Answers = Mapping[str, Mapping[str, float]]


def main() -> int:
    """Make the environments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN")
    parser.add_argument("files", nargs="*", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="auricle-light-") as folder:
        run, files = (options.run, options.files) if options.run else train(Path(folder))
        exported = Path(folder) / "exported"
        auricle(sys.executable, "export", str(run), "--onnx", "--out", str(exported))
        expected = answers(
            auricle(sys.executable, "predict", str(run), *files, "--runtime", "torch", "--top", "1000", "--json")
        )
        python = install(Path(folder) / "light", "onnx")
        check_core(python, Path(files[0]).parent)
        predict(python, exported, files, expected)
        load(python, exported, files, expected)
        refuse(python, exported)
        install(Path(folder) / "light", "onnx", "serve")
        serve(python, exported, files, expected, "needs the extra &#x27;demo&#x27;")
        install(Path(folder) / "light", "onnx", "serve", "demo")
        serve(python, exported, files, expected, "<gradio-app")
    print("light ok")
    return 0


def train(folder: Path) -> tuple[Path, list[str]]:
    """A small run on tones, and recordings to ask about."""
    from tests.conftest import write_corpus

    corpus = write_corpus(folder / "corpus")
    auricle(sys.executable, "train", str(corpus), "--recipe", "baseline", "--out", str(folder / "run"))
    return folder / "run", [str(path) for path in sorted(corpus.rglob("*_00[0-2].wav"))]


def install(folder: Path, *extras: str, pip: Sequence[str] = ()) -> str:
    """Install the checkout with some extras into an environment, new where there is none; gives its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    arguments = [f"{ROOT}[{','.join(extras)}]", "--constraint", str(ROOT / "constraints.txt"), *pip]
    start = time.perf_counter()
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, cwd=folder)
    print(f"installed [{','.join(extras)}] in {time.perf_counter() - start:.0f} s, {megabytes(folder):.0f} MB")
    return str(python)


def megabytes(folder: Path) -> float:
    """What a folder takes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def auricle(python: str, *arguments: str, code: int = 0) -> str:
    """Run a command of an environment; fails where it ends otherwise than with `code`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python == sys.executable:
        environment |= {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [python, "-m", "auricle", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tempfile.gettempdir(),
    )
    if done.returncode != code:
        raise SystemExit(
            f"auricle {' '.join(arguments)} ended with {done.returncode}, not {code}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout if code == 0 else done.stderr


def answers(printed: str) -> dict[str, dict[str, float]]:
    """The probabilities that `auricle predict --json` prints, by file and label."""
    rows = [json.loads(line) for line in printed.splitlines()]
    return {row["file"]: {one["label"]: one["probability"] for one in row["choices"]} for row in rows}


def compare(what: str, answers: Answers, expected: Answers) -> None:
    """Fail where an answer is missing or differs."""
    if set(answers) != set(expected):
        raise SystemExit(f"{what}: {len(answers)} answers for {len(expected)} files.")
    worst = max(abs(answers[file][label] - share) for file, row in expected.items() for label, share in row.items())
    if not worst <= TOLERANCE:
        raise SystemExit(f"{what}: an answer differs by {worst:.2e}; {TOLERANCE:g} is allowed.")
    print(f"{what}: {len(expected)} answers, at most {worst:.1e} from PyTorch's")


def check_core(python: str, corpus: Path) -> None:
    """No heavy package is installed, and the core commands work."""
    code = f"from importlib.util import find_spec as f; print([one for one in {HEAVY!r} if f(one)])"
    there = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if there != "[]":
        raise SystemExit(f"The light environment holds {there}.")
    if "usage: auricle" not in auricle(python, "--help"):
        raise SystemExit("auricle --help says nothing of its usage.")
    auricle(python, "inspect", str(corpus.parent))
    print(f"none of {', '.join(HEAVY)}; --help and inspect work")


def predict(python: str, exported: Path, files: Sequence[str], expected: Answers) -> None:
    compare(
        "auricle predict",
        answers(auricle(python, "predict", str(exported), *files, "--top", "1000", "--json")),
        expected,
    )


def load(python: str, exported: Path, files: Sequence[str], expected: Answers) -> None:
    code = (
        "import sys, json, auricle\nmodel = auricle.load(sys.argv[1])\n"
        "found = {file: {one.label: one.probability for one in model(file).choices} for file in sys.argv[2:]}\n"
        "assert 'torch' not in sys.modules\nprint(json.dumps(found))"
    )
    command = [python, "-c", code, str(exported), *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tempfile.gettempdir())
    if done.returncode:
        raise SystemExit(f"auricle.load failed:\n{done.stderr}")
    compare("auricle.load", json.loads(done.stdout), expected)


def refuse(python: str, exported: Path) -> None:
    """What is missing is named with the command that installs it."""
    for command, extra in ((["serve", str(exported)], "serve"), (["export", str(exported), "--onnx"], "train")):
        message = auricle(python, *command, code=2)
        if f"auricle[{extra}]" not in message:
            raise SystemExit(f"auricle {command[0]} does not name the extra '{extra}': {message}")
    print("serve and export name the extras that they need")


def serve(python: str, exported: Path, files: Sequence[str], expected: Answers, page: str) -> None:
    """Start the service, send requests, fetch its page, and stop it."""
    with service([python, "-m", "auricle", "serve", str(exported), "--port", "0", "--json"]) as url:
        compare("auricle serve", {file: ask(url, Path(file)) for file in files}, expected)
        with urllib.request.urlopen(url, timeout=WAIT) as response:
            if page not in response.read().decode():
                raise SystemExit(f"The page at / does not hold '{page}'.")


def ask(url: str, file: Path) -> dict[str, float]:
    """The probabilities of a file by the service, by label."""
    request = urllib.request.Request(f"{url}v1/classify?top=1000", file.read_bytes())
    with urllib.request.urlopen(request, timeout=WAIT) as response:
        return {one["label"]: one["probability"] for one in json.load(response)["choices"]}


@contextlib.contextmanager
def service(command: Sequence[str], **environment: str) -> Iterator[str]:
    """Run a service that prints its address as JSON; it must end with 0 after SIGTERM."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process: subprocess.Popen[str] = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=inherited | environment, cwd=tempfile.gettempdir()
    )
    try:
        yield ready(process)
        process.terminate()
        if process.wait(WAIT):
            raise SystemExit(f"The service ended with {process.returncode}.")
    finally:
        process.kill()
        process.wait(WAIT)


def ready(process: "subprocess.Popen[str]") -> str:
    """Wait for the address, and until the model there is warm."""
    assert process.stdout is not None
    output = ""
    while not output.rstrip().endswith("}"):
        line = process.stdout.readline()
        if not line:
            raise SystemExit("The service ended before it printed its address.")
        output += line
    url: str = json.loads(output)["url"]
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}readyz", timeout=WAIT):
            return url
        time.sleep(0.1)
    raise SystemExit("The service was never ready.")


if __name__ == "__main__":
    sys.exit(main())
