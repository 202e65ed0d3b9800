"""Push a run to the Hugging Face Hub: model, card, report and metrics in one commit.

An Upload can be inspected without network or token. Files are named one by one, never by folder; what they contain
about this machine or the people recorded is removed first. No message shows the token.
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
    HTTPError,  # of whichever HTTP library the client is built on
)
from huggingface_hub.utils import validate_repo_id

from auricle.audio.settings import Settings
from auricle.audio.store import Store
from auricle.audio.store import prepare as prepare_store
from auricle.corpus.clip import Index
from auricle.errors import RunError, UsageError
from auricle.evaluation.model_card import dataset_of, model_card
from auricle.evaluation.page import write_page
from auricle.evaluation.report import Cost, Report
from auricle.hub.redact import LocalPaths, Pseudonyms, local_paths, pseudonyms, without_names, without_paths
from auricle.run_folder import RunFolder

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN; the token needs write access."
# What an answer of the Hub means, and what to do, by status.
_HUB_ERRORS: dict[int, tuple[type[UsageError | RunError], str, str]] = {
    401: (UsageError, "The Hub does not accept the token for '{repo}' (401).", _LOGIN),
    403: (
        UsageError,
        "The token has no write access to '{repo}' (403).",
        "Name a repository of your own, or use a token with write access: hf auth login.",
    ),
    404: (
        UsageError,
        "The Hub has no repository '{repo}' that this token can see, or no such revision (404).",
        "Check the names of the user or organisation and of the revision.",
    ),
    409: (RunError, "'{repo}' was changed by another push at the same time (409).", "Push again."),
}


@dataclass(frozen=True)
class UploadFile:
    """One file of the repository: its name there, and its content or the local file with it."""

    name: str
    content: bytes | Path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


@dataclass(frozen=True)
class Upload:
    """What is ready to push. `metadata` is the card's, `notes` list what was omitted or changed."""

    repo: str
    private: bool
    revision: str | None
    message: str
    files: tuple[UploadFile, ...]
    metadata: Mapping[str, Any]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data for programs."""
        return {
            "repo": self.repo,
            "visibility": "private" if self.private else "public",
            "revision": self.revision or "main",
            "message": self.message,
            "files": [{"name": file.name, "bytes": file.size} for file in self.files],
            "card": dict(self.metadata),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class PushOptions:
    """The options of `auricle push`."""

    private: bool = False
    revision: str | None = None
    message: str | None = None
    license: str | None = None
    with_scores: bool = False
    with_audio: bool = False


def prepare_upload(run: Path, repo: str, options: PushOptions) -> Upload:
    """Collect the files. Raises RunError for a run that is missing or unfinished, UsageError for an invalid name."""
    _check_options(repo, options)
    folder = RunFolder(run)
    _check_run(folder)
    index = Index.load(folder.index)
    names = None if options.with_scores else pseudonyms(index)
    own = Report.load(folder.report)
    local = local_paths(run, own.labels)
    content = own.as_json()
    content = without_paths(content if names is None else without_names(content, names), local)
    report, cost = Report.from_json(content), Cost.load(folder.cost)
    store, positions = _audio(index, own, names) if options.with_audio else (None, {})
    card = model_card(report, cost, dataset=dataset_of(index), license=options.license, repo=repo)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "report.html"
        write_page(path, report, cost, store, positions, repo)
        page = path.read_bytes()
    recipe = without_paths(yaml.safe_load(folder.recipe.read_text(encoding="utf-8")), local)
    files = [
        *(_model_file(path, local) for path in _model_files(folder)),
        UploadFile("README.md", str(card).encode()),
        _json_file("report.json", content),
        UploadFile("report.html", page),
        UploadFile("recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode()),
        UploadFile("cost.json", folder.cost.read_bytes()),
    ]
    if folder.history.is_file():
        files.append(UploadFile("history.jsonl", folder.history.read_bytes()))
    if options.with_scores:
        files.append(UploadFile("scores.parquet", folder.scores))
    _refuse_local_paths(files, local)
    return Upload(
        repo,
        options.private,
        options.revision,
        options.message or f"Model, card and report of the recipe '{report.name}'",
        tuple(files),
        card.data.to_dict(),  # type: ignore[no-untyped-call]
        tuple(_notes(own, options)),
    )


def push(upload: Upload, endpoint: str | None = None) -> str:
    """Create the repository where there is none, commit all files at once, and return the page's address.

    Raises UsageError without a token, or where the Hub refuses it or the name; RunError where the Hub cannot be
    reached. No message holds the token.
    """
    token = huggingface_hub.get_token()
    if token is None:
        raise UsageError(f"Pushing needs a Hugging Face token, and none was found. {_LOGIN}")
    if any(isinstance(file.content, bytes) and token.encode() in file.content for file in upload.files):
        raise RunError(
            "A file of this run contains your Hugging Face token. Nothing was pushed; remove it from the recipe."
        )
    api = huggingface_hub.HfApi(endpoint=endpoint)
    operations = [
        huggingface_hub.CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.content)
        for file in upload.files
    ]
    try:
        # Without --private the default of the account or organisation applies.
        api.create_repo(upload.repo, private=upload.private or None, exist_ok=True)
        if upload.private and not api.model_info(upload.repo).private:
            raise UsageError(
                f"The repository '{upload.repo}' exists and is public, and --private was given. Nothing was pushed. "
                "Make it private on its settings page, or name another repository."
            )
        if upload.revision is not None:
            api.create_branch(upload.repo, branch=upload.revision, exist_ok=True)
        with warnings.catch_warnings():
            # scores.parquet is in a model repository on request.
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file", UserWarning)
            api.create_commit(upload.repo, operations, commit_message=upload.message, revision=upload.revision)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        # `from None`: the library's errors carry their requests, whose headers hold the token.
        raise _push_error(error, upload.repo, token) from None
    return f"{api.endpoint}/{upload.repo}"


def _check_options(repo: str, options: PushOptions) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"'{repo}' is not a valid repository name: {error}") from error
    if "/" not in repo:
        raise UsageError(f"The repository was given as '{repo}'. Write it as user/{repo}, or organisation/{repo}.")
    if options.license is not None and not _LICENSE.fullmatch(options.license):
        raise UsageError(
            f"--license received '{options.license}'. Give the Hub's identifier of a licence, such as apache-2.0 or "
            "cc-by-4.0."
        )


def _check_run(folder: RunFolder) -> None:
    run = folder.path
    if not run.is_dir():
        raise RunError(f"There is no run folder at '{run}'. `auricle train` writes one.")
    required = (folder.recipe, folder.index, folder.report, folder.cost, folder.report_page, folder.model_config)
    missing = [str(path.relative_to(run)) for path in required if not path.is_file()]
    model_files = _model_files(folder)
    if not any(path.suffix == ".safetensors" for path in model_files):
        missing.append("model/model.safetensors")
    if "recipe.yaml" in missing:
        raise RunError(
            f"'{run}' is not a run folder: it has no recipe.yaml. Name the folder that `auricle train` wrote."
        )
    if missing:
        raise RunError(
            f"The run in '{run}' is unfinished: it has no {', '.join(missing)}. Finish it first, with the recipe it "
            f"was started with: auricle train DATA --out {run} --resume."
        )
    for path in (*required, folder.history, folder.scores, *model_files):
        if not path.resolve().is_relative_to(run.resolve()):
            raise RunError(f"'{path}' is a link to a file outside the run folder. Only files inside it are pushed.")


def _model_files(folder: RunFolder) -> list[Path]:
    """The files of a transformers model; the card is written again, and other files are not pushed."""
    return sorted(path for path in folder.model.glob("*") if path.suffix in (".json", ".safetensors"))


def _model_file(path: Path, local: LocalPaths) -> UploadFile:
    if path.suffix != ".json":
        return UploadFile(path.name, path)
    content = json.loads(path.read_text(encoding="utf-8"))
    public = without_paths(content, local)
    return UploadFile(path.name, path.read_bytes()) if public == content else _json_file(path.name, public)


def _audio(index: Index, report: Report, names: Pseudonyms | None) -> tuple[Store, dict[str, int]]:
    """The decoded corpus, and each clip's position in it by its name in the pushed report."""
    audio, model = report.recipe.audio, report.model
    settings = Settings(model.sample_rate, model.channels, audio.min_seconds, audio.max_seconds, model.num_features)
    store = prepare_store(index.clips, settings)
    return store, {(names.clips[clip.id] if names else clip.id): position for position, clip in enumerate(index)}


def _refuse_local_paths(files: list[UploadFile], local: LocalPaths) -> None:
    """The final check: no pushed text may contain the path of a folder of this machine."""
    for file in files:
        if isinstance(file.content, bytes) and any(f"{folder}/".encode() in file.content for folder in local.folders):
            raise RunError(
                f"{file.name} contains the path of a folder of this machine, and nothing was pushed. Look for it in "
                "the recipe and report.json."
            )


def _notes(report: Report, options: PushOptions) -> list[str]:
    scores = "The report numbers the clips, and scores.parquet is omitted (--with-scores includes both)."
    if options.with_scores:
        scores = "scores.parquet and the report include the names of clips and groups."
    embeds_audio = report.model.num_features is None and report.recipe.evaluate.embed_audio
    if not embeds_audio or not (report.misclassified or report.suspect_labels):
        return [scores]
    audio = "report.html omits audio and spectrograms of misclassified clips (--with-audio includes them)."
    if options.with_audio:
        audio = "report.html includes excerpts of recordings: everyone who can see the repository can play them."
    return [audio, scores]


def _json_file(name: str, content: Any) -> UploadFile:
    return UploadFile(name, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _push_error(error: Exception, repo: str, token: str) -> UsageError | RunError:
    """One sentence for an error of the Hub or the network, with the token removed from the Hub's text."""
    cause: BaseException = error
    while not isinstance(cause, HTTPError | OSError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        other = (RunError, f"The Hub answered {status} for '{{repo}}'.", "Nothing was committed; try again later.")
        kind, meaning, advice = _HUB_ERRORS.get(status, other)
        reply = f" Its reply: {cause.server_message}" if cause.server_message else ""
        return kind(f"{meaning.format(repo=repo)}{reply.replace(token, '(token)')} {advice}")
    if isinstance(cause, HTTPError | OSError):
        return RunError(
            f"The Hugging Face Hub cannot be reached ({type(cause).__name__}). Nothing was committed to '{repo}'. "
            "Check the network and push again; pushing twice is harmless."
        )
    reason = str(error) if cause is error else f"{error} {cause}"
    return RunError(f"The push to '{repo}' failed: {reason.replace(token, '(token)')}")
