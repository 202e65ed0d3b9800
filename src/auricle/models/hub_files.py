"""Which files of a model on the Hugging Face Hub are opened, and their copies in its cache.

In: a Hub name and revision. Out: a folder of the cache with the config, and one with the weights: safetensors of the
revision; else those of the Hub's own conversion, a pull request; else a pickle, where the user allows it. transformers
is given folders only: by itself it would send a repository without safetensors to a conversion service.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx

from auricle.errors import UsageError
from auricle.models.download import Progress, RemoteFile, download
from auricle.preparation.formatting import file_size

_log = logging.getLogger(__name__)
SAFETENSORS, PICKLE, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"
_SETTINGS = (CONFIG, "preprocessor_config.json", "processor_config.json")
# The Hub's own account, which converts pickles and proposes the result in a pull request of this title.
CONVERSION_AUTHOR, CONVERSION_TITLE = "SFconvertbot", "Adding `safetensors` variant of this model"
_PICKLE_NOTE = f"The weights are from {PICKLE}, a pickle, opened as tensors alone (weights_only)."
_PASSING_FAULTS = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class HubModel:
    """A model at one commit: the cached folder of its config, the files that the Hub lists, and its licence there.

    Without the Hub there is no list; `offline` is the reason, empty where the Hub answered.
    """

    name: str
    revision: str
    commit: str
    folder: Path
    files: tuple[RemoteFile, ...] = ()
    license: str | None = None
    offline: str = ""


@dataclass(frozen=True)
class Weights:
    """The folder to open weights from, their files, the Hub's revision that has them, and notes for the user."""

    folder: Path
    files: tuple[RemoteFile, ...]
    revision: str = ""
    is_pickle: bool = False
    notes: tuple[str, ...] = ()


class _UnreachableError(UsageError):
    """The Hub cannot be reached, or does not answer; the message is the reason."""


def assets_folder() -> Path:
    """Where auricle stores what is not of the Hub, in the folder that HF_HOME or HF_ASSETS_CACHE names."""
    return Path(constants.HF_ASSETS_CACHE) / "auricle"


@functools.cache
def hub_model(name: str, revision: str | None = None) -> HubModel:
    """Look a model up on the Hub and download its config; use the cache where the Hub cannot be reached.

    A commit whose weights are cached never changes, and is not looked up.

    Raises UsageError for a name or revision that does not exist, is private or gated, for a repository without a
    config, and for a model that is neither reachable nor cached.
    """
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        pinned = cached_model(name, revision)
        if pinned is not None and cached_weights(pinned) is not None:
            return pinned
    try:
        return _listed_model(name, revision or constants.DEFAULT_REVISION)
    except _UnreachableError as error:
        cached = cached_model(name, revision, str(error))
        if cached is None:
            raise UsageError(
                f"The checkpoint '{name}' is no folder; the Hugging Face Hub cannot be reached ({error}), and its "
                "local cache has no such model. Name a folder, or retry with a network connection."
            ) from error
        return cached


def cached_model(name: str, revision: str | None = None, offline: str = "") -> HubModel | None:
    """The cached copy of a model, without network; None if its config is not cached."""
    try:
        config = huggingface_hub.try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError as error:
        raise UsageError(_explanation(name, revision, error)) from error
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return HubModel(name, revision or constants.DEFAULT_REVISION, folder.name, folder, offline=offline)


def fetch_weights(model: HubModel, allow_pickle: bool = False, progress: Progress | None = None) -> Weights:
    """Download the weights of a model, or use the cached ones where the Hub cannot be reached.

    Raises UsageError for weights that exist only as a pickle unless `allow_pickle`, for a download that stopped or is
    damaged, and for a repository without weights.
    """
    try:
        if not model.files:
            raise _UnreachableError(model.offline)
        weights = _listed_weights(model, allow_pickle, progress)
    except _UnreachableError as error:
        if (cached := cached_weights(model, allow_pickle)) is not None:
            return cached
        pickle = f" (only {PICKLE}; to open that as tensors alone: --set model.allow_pickle=true)"
        raise UsageError(
            f"The checkpoint '{model.name}' has no safetensors in the local cache"
            f"{pickle if _local_files(model.folder, PICKLE) else ''}, and the Hugging Face Hub cannot be reached "
            f"({error}). Retry with a network connection."
        ) from error
    if weights is not None:
        return weights
    if _complete(model.files, PICKLE):
        raise UsageError(
            f"The checkpoint '{model.name}' has only {PICKLE}, a pickle, and the Hub has no conversion of it to "
            "safetensors. To open it as tensors alone, so that no code in it can run: --set model.allow_pickle=true "
            "(to download it: --allow-pickle)."
        )
    raise UsageError(
        f"The checkpoint '{model.name}' has neither {SAFETENSORS} nor {PICKLE} in revision '{model.revision}'. "
        "Choose a revision that has one, --set model.revision=NAME, or another model."
    )


def cached_weights(model: HubModel, allow_pickle: bool = False) -> Weights | None:
    """The cached weights of a model, without network; None if they are not complete."""
    if weights := folder_weights(model.folder):
        return weights
    record = _conversion_record(model)
    if record.is_file():
        ref, commit = json.loads(record.read_text(encoding="utf-8"))
        if weights := folder_weights(model.folder.parent / commit):
            return dataclasses.replace(weights, revision=ref, notes=(_conversion_note(ref),))
    return folder_weights(model.folder, allow_pickle)


def folder_weights(folder: Path, allow_pickle: bool = False) -> Weights | None:
    """The weights in a folder: safetensors, else a pickle where it is allowed; None if neither is complete."""
    if files := _local_files(folder, SAFETENSORS):
        return Weights(folder, files)
    if allow_pickle and (files := _local_files(folder, PICKLE)):
        return Weights(folder, files, is_pickle=True, notes=(_PICKLE_NOTE,))
    return None


def _conversion_note(ref: str) -> str:
    return f"The weights are the Hub's own conversion of {PICKLE} to safetensors ({ref} of the checkpoint)."


def _listed_model(name: str, revision: str) -> HubModel:
    if constants.is_offline_mode():
        raise _UnreachableError("HF_HUB_OFFLINE is set")
    with _hub_errors(name, revision):
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    commit, files = str(_hash_or_none(info.sha)), _listed_files(name, info)
    settings = [file for file in files if file.name in _SETTINGS]
    if CONFIG not in [file.name for file in settings]:
        raise UsageError(
            f"The checkpoint '{name}' has no {CONFIG} in revision '{revision}': it is no model of "
            "transformers. Choose another."
        )
    folder = _fetch(HubModel(name, revision, commit, _snapshots(name) / commit), settings)
    return HubModel(name, revision, commit, folder, files, info.card_data.get("license") if info.card_data else None)


def _listed_files(name: str, info: huggingface_hub.ModelInfo) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(
            file.rfilename,
            huggingface_hub.hf_hub_url(name, file.rfilename, revision=info.sha),
            file.size,
            _hash_or_none(file.lfs.sha256 if file.lfs is not None else None),
            _hash_or_none(file.blob_id),
        )
        for file in info.siblings or ()
    )


def _hash_or_none(text: str | None) -> str | None:
    """A hash in hexadecimal: it becomes the name of a file in the cache."""
    return text if text and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text) else None


def _listed_weights(model: HubModel, allow_pickle: bool, progress: Progress | None) -> Weights | None:
    if files := _complete(model.files, SAFETENSORS):
        return Weights(_fetch(model, files, progress), files, model.revision)
    pickle = _complete(model.files, PICKLE)
    if pickle and (converted := _conversion(model, pickle)):
        files = _complete(converted.files, SAFETENSORS)
        weights = Weights(
            _fetch(converted, files, progress), files, converted.revision, notes=(_conversion_note(converted.revision),)
        )
        record, content = _conversion_record(model), json.dumps([converted.revision, converted.commit])
        if not record.is_file() or record.read_text(encoding="utf-8") != content:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(content, encoding="utf-8")
        return weights
    if pickle and allow_pickle:
        folder = _fetch(model, pickle, progress)
        return Weights(folder, pickle, model.revision, is_pickle=True, notes=(_PICKLE_NOTE,))
    return None


def _conversion(model: HubModel, pickle: tuple[RemoteFile, ...]) -> HubModel | None:
    """The open pull request in which the Hub's converter proposes safetensors of exactly this pickle.

    Pull requests of anybody else are ignored: whoever opens one chooses its weights.
    """
    with _hub_errors(model.name, model.revision):
        response = get_session().get(
            f"{constants.ENDPOINT}/api/models/{model.name}/discussions",
            params={"type": "pull_request", "status": "open", "author": CONVERSION_AUTHOR},
            headers=build_hf_headers(),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
        hf_raise_for_status(response)
    numbers = [
        row["num"]
        for row in response.json()["discussions"]
        if row["isPullRequest"] and (row["status"], row["title"]) == ("open", CONVERSION_TITLE)
        if row.get("author", {}).get("name") == CONVERSION_AUTHOR
    ]
    for ref in (f"refs/pr/{number}" for number in sorted(numbers, reverse=True)):
        with _hub_errors(model.name, ref):
            info = HfApi().model_info(
                model.name, revision=ref, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        files, commit = _listed_files(model.name, info), str(_hash_or_none(info.sha))
        listed = {(file.name, file.hash) for file in files}
        if _complete(files, SAFETENSORS) and all((file.name, file.hash) in listed for file in pickle):
            return HubModel(model.name, ref, commit, model.folder.parent / commit, files)
    return None


def _conversion_record(model: HubModel) -> Path:
    """Remembers which pull request and commit replace a pickle, for use without network."""
    return assets_folder() / "conversions" / repo_folder_name(repo_id=model.name, repo_type="model") / model.commit


def _snapshots(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "snapshots"


def _fetch(model: HubModel, files: Iterable[RemoteFile], progress: Progress | None = None) -> Path:
    """Download files of a commit into the cache, verified; returns their folder.

    huggingface_hub names and links them; alone it would start an interrupted download from the beginning.
    """
    repository = _snapshots(model.name).parent
    folder = repository / "snapshots" / model.commit
    with _hub_errors(model.name, model.revision):
        for file in files:
            local = folder / file.name
            is_complete = local.is_file() and local.stat().st_size == file.size
            if file.hash is not None and not is_complete:
                local.unlink(missing_ok=True)
                if file.name.endswith((".safetensors", ".bin")):
                    _log.warning("Downloading %s of %s: %s.", file.name, model.name, file_size(file.size or 0))
                lock = repository.parent / ".locks" / repository.name / f"{file.hash}.lock"
                download(file, repository / "blobs" / file.hash, lock, progress)
            huggingface_hub.hf_hub_download(
                model.name, file.name, revision=model.revision, etag_timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
    return folder


def _complete(files: Iterable[RemoteFile], name: str) -> tuple[RemoteFile, ...]:
    """The weights in one file of this name, or all shards after their index; empty if the model has neither."""
    by_name = {file.name: file for file in files}
    if name in by_name:
        return (by_name[name],)
    stem, _, suffix = name.rpartition(".")
    index = by_name.get(f"{name}.index.json")
    shards = (by_name[key] for key in sorted(by_name) if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", key))
    return (index, *shards) if index is not None else ()


def _local_files(folder: Path, name: str) -> tuple[RemoteFile, ...]:
    """As `_complete`, of the files in a folder; empty unless the folder has all that the index names."""
    names, index = [name], folder / f"{name}.index.json"
    if not (folder / name).is_file() and index.is_file():
        names = [index.name, *sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
    if not all((folder / part).is_file() for part in names):
        return ()
    return tuple(RemoteFile(part, "", (folder / part).stat().st_size) for part in names)


@contextlib.contextmanager
def _hub_errors(name: str, revision: str) -> Iterator[None]:
    """Errors of the Hub's client as UsageError: _UnreachableError where another attempt may succeed."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise _UnreachableError(f"no answer within {constants.HF_HUB_ETAG_TIMEOUT} s") from error
    except (httpx.TransportError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise _UnreachableError(str(error).partition("\n")[0] or type(error).__name__) from error
    except (HfHubHTTPError, HFValidationError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in _PASSING_FAULTS:
            raise _UnreachableError(f"it answers with status {error.response.status_code}") from error
        raise UsageError(_explanation(name, revision, error)) from error


def _explanation(name: str, revision: str | None, error: Exception) -> str:
    received, page = f"The checkpoint '{name}'", f"{constants.ENDPOINT}/{name}"
    if isinstance(error, GatedRepoError):
        return f"{received} is gated. Accept its terms at {page}, then log in: hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return f"{received} is neither a folder here nor a public model on the Hub. If it is private: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"{received} has no revision '{revision}'. {page}/tree/main lists its revisions."
    if isinstance(error, HFValidationError):
        return f"{received} is neither a folder here nor a Hub name, such as facebook/hubert-base-ls960. Name one."
    reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return f"{received} is refused by the Hub: {reason}. If it is private: hf auth login"
