"""Every benchmark in turn, and one markdown table of their results with the machine in its head.

With --keep the results go into docs/figures.json, a column for each machine, from which `python -m docs.make_figures`
writes docs/figures.md: a benchmark that fails is named, and the others run all the same. The last line is the number of
benchmarks that failed.
"""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from docs.make_figures import table

from auricle.run_folder import write_json
from benchmarks._environment import Screen, machine

# A benchmark and its arguments. The accuracies take longest, and are run by name: `python -m benchmarks accuracy NAME`.
COMMANDS = (
    "prepare",
    "baseline",
    "sound",
    "finetune",
    "classify",
    "probe",
    "tag",
    "conformer",
    "verification",
    "hour",
    "memory",
    "events",
    "serve",
    "serve --model hubert-base",
    "parity",
    "coverage",
    "int8",
    "growth",
)
FIGURES = Path(__file__).parent.parent / "docs" / "figures.json"
# What tells one machine from another.
MACHINE_FACTS = ("processor", "cores")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"only these benchmarks (default: {', '.join(COMMANDS)})"
    )
    parser.add_argument("--keep", action="store_true", help="add the results to docs/figures.json")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Run the benchmarks, print each one's results as it ends, and the table."""
    screen.machine()
    found: dict[str, float] = {}
    failed = 0
    for command in options.names or COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *command.split(), "--json"], capture_output=True, text=True
        )
        results = {f"{command}: {name}": value for name, value in results_of(done.stdout).items()}
        if done.returncode:
            failed += 1
            screen.say(f"{command} failed: {done.stderr.strip()[-500:]}")
        for name, value in results.items():
            screen.say(f"{name} {value:.3g}")
            screen.record("figure", name=name, value=value)
        found |= results
        if options.keep and results:
            keep(FIGURES, results)
    screen.say(table([column(found)]))
    screen.result("all", "failed", failed)


def results_of(output: str) -> dict[str, float]:
    """The results among a benchmark's lines of JSON: name and metric, and the value; the last of a name counts."""
    records = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {f"{one['name']} {one['metric']}": one["value"] for one in records if one["record"] == "result"}


def column(results: dict[str, float]) -> dict[str, Any]:
    """What docs/figures.json holds for one machine, with today's date at each figure."""
    date, facts = datetime.date.today().isoformat(), machine()
    figures = {name: {"value": value, "date": date} for name, value in results.items()}
    return {**{name: facts[name] for name in MACHINE_FACTS}, "figures": figures}


def keep(path: Path, results: dict[str, float]) -> None:
    """Add results to the column of this machine; older ones of the same name are replaced."""
    columns = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    new = column(results)
    for old in columns:
        if all(old[name] == new[name] for name in MACHINE_FACTS):
            old["figures"] |= new["figures"]
            break
    else:
        columns.append(new)
    write_json(path, columns)
