"""The README runs: its commands and its code, on a small corpus, in order."""

import json
import re
import shlex
from pathlib import Path

import pytest

from auricle.cli.main import main
from tests.conftest import write_corpus

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_its_first_commands_are_targets_of_the_makefile() -> None:
    first = [line.split("#")[0].split() for line in blocks("sh")[0].splitlines()]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert first == [["make", "demo"], ["make", "test"]]
    assert {"demo", "test"} <= set(targets)


def test_its_commands_and_code_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, but for one thing: networks train one epoch, for the time's sake."""
    write_corpus(tmp_path / "my-recordings")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for block in blocks("sh")[1:]:
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["auricle"]:
                continue
            quick = ["--set", "train.epochs=1"] if words[1] == "train" and "baseline" not in words else []
            assert main([*words[1:], *quick]) == 0, line
            ran += 1
    assert ran >= 5
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "answers.csv").is_file()


def test_every_link_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), (page.name, target)


def test_the_recipe_page_is_what_the_code_says() -> None:
    from docs.make_recipes import MARK, PAGE, tables

    assert PAGE.read_text(encoding="utf-8").split(MARK)[1].strip() == tables().strip()


def test_the_figures_page_and_the_ratios_of_the_readme_are_those_that_benchmarks_kept() -> None:
    from docs import make_figures

    columns = json.loads(make_figures.SOURCE.read_text(encoding="utf-8"))
    page = make_figures.PAGE.read_text(encoding="utf-8")
    assert page.split(make_figures.MARK)[1].strip() == make_figures.table(columns).strip()
    stated = re.findall(
        r"^\| .*\| ([\d. to]+?) \|$", README.split("| command | what is compared | ratio |")[1], flags=re.MULTILINE
    )
    known = {make_figures.span(columns, name) for column in columns for name in column["figures"]}
    assert len(stated) > 8 and not set(stated) - known
