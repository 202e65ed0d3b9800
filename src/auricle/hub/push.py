"""Push a run to the Hugging Face Hub: model, card, report and metrics in one commit.

In: a finished run folder and the name of a repository. Out: a Shipment, which says what would go and can be looked at
without network or token, and its sending. Files are named one by one, never by folder; what a reader of them could
learn of this machine or of the people recorded is taken out first. The token is read by huggingface_hub from its usual
place and is never shown.
"""

import json
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # whichever HTTP library the hub's client is built on
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from auricle.audio.settings import Settings
from auricle.audio.store import Store
from auricle.audio.store import prepare as prepare_store
from auricle.corpus.clip import Index
from auricle.errors import RunError, UsageError
from auricle.evaluation.model_card import card, dataset_of
from auricle.evaluation.page import write_page
from auricle.hub.redact import Local, Names, local, numbered, without_names, without_paths

_NEEDED = ("recipe.yaml", "index.parquet", "report.json", "cost.json", "report.html", "model/config.json")
_WELCOME = ("history.jsonl", "scores.parquet")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN; the token needs the right to write."


@dataclass(frozen=True)
class Parcel:
    """One file of the repository: its name there, and its content or the file here that holds it."""

    name: str
    content: bytes | Path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


@dataclass(frozen=True)
class Shipment:
    """What is ready to go. `metadata` is the card's, `notes` say what was held back or changed."""

    repo: str
    private: bool
    revision: str | None
    message: str
    parcels: tuple[Parcel, ...]
    metadata: Mapping[str, Any]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data for programs."""
        return {
            "repo": self.repo,
            "visibility": "private" if self.private else "public",
            "revision": self.revision or "main",
            "message": self.message,
            "files": [{"name": parcel.name, "bytes": parcel.size} for parcel in self.parcels],
            "card": dict(self.metadata),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Wishes:
    """What a person asks of a push."""

    private: bool = False
    revision: str | None = None
    message: str | None = None
    license: str | None = None
    with_scores: bool = False
    with_audio: bool = False


def pack(run: Path, repo: str, wishes: Wishes) -> Shipment:
    """Gather what would go. Raises RunError for a run that is missing or unfinished, UsageError for a wrong name."""
    _check(run, repo, wishes)
    index = Index.load(run / "index.parquet")
    names = numbered(index)
    whole = json.loads((run / "report.json").read_text(encoding="utf-8"))
    here = local(run, whole["labels"])
    report = without_paths(whole if wishes.with_scores else without_names(whole, names), here)
    cost = json.loads((run / "cost.json").read_text(encoding="utf-8"))
    store, positions = _sounds(index, whole, None if wishes.with_scores else names) if wishes.with_audio else (None, {})
    readme = card(report, cost, dataset=dataset_of(index), license=wishes.license, repo=repo)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    parcels = [
        *(_model_file(path, here) for path in _model_files(run)),
        _text("README.md", readme),
        _text("report.json", _as_text(report)),
        Parcel("report.html", _page(report, cost, store, positions, repo)),
        _text("recipe.yaml", yaml.safe_dump(without_paths(recipe, here), sort_keys=False, allow_unicode=True)),
        _text("cost.json", _as_text(cost)),
    ]
    if (run / "history.jsonl").is_file():
        parcels.append(Parcel("history.jsonl", (run / "history.jsonl").read_bytes()))
    if wishes.with_scores:
        parcels.append(Parcel("scores.parquet", run / "scores.parquet"))
    _refuse_local_names(parcels, here)
    return Shipment(
        repo,
        wishes.private,
        wishes.revision,
        wishes.message or f"Model, card and report of the recipe '{report['name']}'",
        tuple(parcels),
        huggingface_hub.ModelCard(readme).data.to_dict(),  # type: ignore[no-untyped-call]
        tuple(_notes(whole, wishes)),
    )


def send(shipment: Shipment, endpoint: str | None = None) -> str:
    """Create the repository where there is none, commit the files at once, and return the page's address.

    Raises UsageError without a token, or where the Hub refuses it or the name; RunError where the Hub cannot be
    reached. No message holds the token.
    """
    token = huggingface_hub.get_token()
    if token is None:
        raise UsageError(f"No token of the Hugging Face Hub was found, and pushing needs one. {_LOGIN}")
    if any(isinstance(parcel.content, bytes) and token.encode() in parcel.content for parcel in shipment.parcels):
        raise RunError("A file of this run holds your token of the Hub. Nothing was pushed; take it out of the recipe.")
    api = huggingface_hub.HfApi(endpoint=endpoint)
    operations = [
        huggingface_hub.CommitOperationAdd(path_in_repo=parcel.name, path_or_fileobj=parcel.content)
        for parcel in shipment.parcels
    ]
    try:
        # Without --private the account's or organisation's own default holds.
        api.create_repo(shipment.repo, private=shipment.private or None, exist_ok=True)
        if shipment.private and not api.model_info(shipment.repo).private:
            raise UsageError(
                f"The repository '{shipment.repo}' exists and is public, and --private was asked for. Nothing was "
                "pushed. Make it private on its settings page, or name another repository."
            )
        if shipment.revision is not None:
            api.create_branch(shipment.repo, branch=shipment.revision, exist_ok=True)
        with warnings.catch_warnings():
            # scores.parquet in a repository for models is what was asked for.
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file", UserWarning)
            api.create_commit(shipment.repo, operations, commit_message=shipment.message, revision=shipment.revision)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        # `from None`: the library's errors carry their requests, whose headers hold the token.
        raise _told(error, shipment.repo, token) from None
    return f"{api.endpoint}/{shipment.repo}"


def _check(run: Path, repo: str, wishes: Wishes) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"'{repo}' is no name for a repository: {error}") from error
    if "/" not in repo:
        raise UsageError(f"The repository was given as '{repo}'. Write it as user/{repo}, or organisation/{repo}.")
    if wishes.license is not None and not _LICENSE.fullmatch(wishes.license):
        raise UsageError(
            f"--license received '{wishes.license}'. Give the Hub's short name of one, as in apache-2.0 or cc-by-4.0."
        )
    if not run.is_dir():
        raise RunError(f"There is no run folder at '{run}'. `auricle train` makes one.")
    missing = [name for name in _NEEDED if not (run / name).is_file()]
    if not _model_files(run) or not any(path.suffix == ".safetensors" for path in _model_files(run)):
        missing.append("model/model.safetensors")
    if "recipe.yaml" in missing:
        raise RunError(f"'{run}' is no run folder: it has no recipe.yaml. Name the folder that `auricle train` made.")
    if missing:
        raise RunError(
            f"The run in '{run}' is unfinished: it has no {', '.join(missing)}. Finish it first: "
            f"auricle train DATA --out {run} --resume, with the recipe it was begun with."
        )
    for name in (*_NEEDED, *_WELCOME, *(f"model/{path.name}" for path in _model_files(run))):
        if not (run / name).resolve().is_relative_to(run.resolve()):
            raise RunError(f"'{run / name}' leads out of the run folder. Only what lies in it is pushed.")


def _model_files(run: Path) -> list[Path]:
    """The files of a transformers folder; the card is written anew, anything else stays."""
    return sorted(path for path in (run / "model").glob("*") if path.suffix in (".json", ".safetensors"))


def _model_file(path: Path, here: Local) -> Parcel:
    """A file of the model: as it is, unless a local path must be taken out of it."""
    if path.suffix != ".json":
        return Parcel(path.name, path)
    content = json.loads(path.read_text(encoding="utf-8"))
    public = without_paths(content, here)
    return Parcel(path.name, path.read_bytes()) if public == content else _text(path.name, _as_text(public))


def _sounds(index: Index, report: Mapping[str, Any], names: Names | None) -> tuple[Store, dict[str, int]]:
    """The decoded corpus, and each clip's place in it by the name that it has in the pushed report."""
    audio, model = report["recipe"]["audio"], report["model"]
    settings = Settings(
        model["sample_rate"], model["channels"], audio["min_seconds"], audio["max_seconds"], model.get("num_features")
    )
    store = prepare_store(index.clips, settings)
    return store, {(names.clips[clip.id] if names else clip.id): place for place, clip in enumerate(index)}


def _page(
    report: Mapping[str, Any],
    cost: Mapping[str, Any],
    store: Store | None,
    positions: Mapping[str, int],
    repo: str,
) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write_page(path, report, cost, store, positions, repo)
        return path.read_bytes()


def _refuse_local_names(parcels: list[Parcel], here: Local) -> None:
    """The last look: no text that goes may hold the path of a folder of this machine."""
    for parcel in parcels:
        if isinstance(parcel.content, bytes) and any(f"{place}/".encode() in parcel.content for place in here.places):
            raise RunError(
                f"{parcel.name} would tell strangers the path of a folder of this machine, and nothing was pushed. "
                "Look for it in the recipe and report.json."
            )


def _notes(report: Mapping[str, Any], wishes: Wishes) -> list[str]:
    """What was held back, and what goes that a person may not expect."""
    notes = []
    is_sound = report["model"].get("num_features") is None
    shows = is_sound and report["recipe"]["evaluate"]["embed_audio"] and bool(report["mistakes"] or report["doubted"])
    if shows and wishes.with_audio:
        notes.append("report.html goes with excerpts of recordings: whoever can see the repository can hear them.")
    elif shows:
        notes.append("report.html goes without the sound and spectrograms that it has here (--with-audio sends them).")
    if wishes.with_scores:
        notes.append("The names of clips and groups go with scores.parquet and in the report.")
    else:
        notes.append("Names of clips are numbers in the report; scores.parquet stays here (--with-scores sends both).")
    return notes


def _text(name: str, text: str) -> Parcel:
    return Parcel(name, text.encode())


def _as_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _told(error: Exception, repo: str, token: str) -> UsageError | RunError:
    """One sentence for what the Hub or the network said; the token is taken out of whatever they said."""
    cause: BaseException = error
    while not isinstance(cause, HTTPError | OSError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, HfHubHTTPError):
        said = f" It says: {cause.server_message}" if cause.server_message else ""
        return _refused(cause.response.status_code, repo, said.replace(token, "(token)"))
    if isinstance(cause, HTTPError | OSError):
        return RunError(
            f"The Hugging Face Hub cannot be reached ({type(cause).__name__}). Nothing was committed to '{repo}'. "
            "Check the network and try again; pushing twice does no harm."
        )
    said = str(error) if cause is error else f"{error} {cause}"
    return RunError(f"The push to '{repo}' failed: {said.replace(token, '(token)')}")


def _refused(status: int, repo: str, said: str) -> UsageError | RunError:
    if status == 401:
        return UsageError(f"The Hub does not accept the token for '{repo}' (401).{said} {_LOGIN}")
    if status == 403:
        return UsageError(
            f"The Hub does not let this token write to '{repo}' (403).{said} Name a repository of your own, or take a "
            "token with the right to write there: hf auth login."
        )
    if status == 404:
        return UsageError(
            f"The Hub knows no '{repo}' that this token may see, or no such revision (404).{said} Check the names of "
            "the user or organisation and of the revision."
        )
    if status == 409:
        return RunError(f"'{repo}' was changed by another push at the same time (409).{said} Push again.")
    return RunError(f"The Hub answered {status} for '{repo}'.{said} Nothing was committed; try again later.")
