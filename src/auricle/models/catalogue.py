"""The pretrained encoders that auricle knows by a short name: what each is, what it is good for, where it comes from.

In: a short name, such as whisper-tiny.en. Out: its entry, its copy in the cache, or a download. A short name works
wherever a checkpoint is named. Nothing heavy is imported here, and only `fetch` uses the network.
"""

import importlib.util
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from auricle.errors import UsageError, unknown

if TYPE_CHECKING:
    from auricle.models.download import Progress

SPEECH_AND_EMOTION = ("speech", "emotion")
AUDIOSET = ("everyday sounds", "music", "animals")
_RELEASES = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"


@dataclass(frozen=True)
class Encoder:
    """One encoder.

    `source` is a Hub name, or the URL of a file elsewhere. `license` is what its publisher states. `parameters` are
    those of the encoder alone, `download` the bytes of the published weights, rounded. `sample_rate` is in hertz.
    `good_for` is what it was trained on or is commonly chosen for. `revision` and `sha256` are pinned where they are
    known; else a download is verified by the hash that the Hub lists. `is_supported` is false where auricle cannot run
    it yet.
    """

    name: str
    source: str
    license: str
    parameters: int
    download: int
    sample_rate: int
    good_for: tuple[str, ...]
    description: str
    revision: str | None = None
    sha256: str | None = None
    is_supported: bool = True

    @property
    def is_on_hub(self) -> bool:
        return not self.source.startswith("https://")


@dataclass(frozen=True)
class Status:
    """An encoder, and the folder of its weights in the cache, None if they are not there."""

    encoder: Encoder
    cached: Path | None

    def as_json(self) -> dict[str, object]:
        """Plain data for programs."""
        return {**asdict(self.encoder), "cached": str(self.cached) if self.cached is not None else None}


@dataclass(frozen=True)
class CachedEncoder:
    """An encoder that opens without network: `checkpoint` and `revision` are what a recipe names, a cached commit."""

    encoder: Encoder
    checkpoint: str
    revision: str | None


@dataclass(frozen=True)
class FetchedFile:
    """A weights file in the cache; `verified_by` says what its sha256 was compared with, empty if with nothing."""

    path: Path
    size: int
    sha256: str
    verified_by: str


@dataclass(frozen=True)
class Fetched:
    """A downloaded encoder, its verified files, the licence that its page states today, and notes for the user."""

    encoder: Encoder
    files: tuple[FetchedFile, ...]
    license: str
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Plain data for programs."""
        files = [{**asdict(file), "path": str(file.path)} for file in self.files]
        return {**asdict(self.encoder), "license": self.license, "files": files, "notes": list(self.notes)}


def _whisper(size: str, parameters: int, download: int, languages: str) -> Encoder:
    description = f"Whisper's encoder, {languages}; windows of at most 30 s"
    source = f"openai/whisper-{size}"
    return Encoder(
        f"whisper-{size}", source, "apache-2.0", parameters, download, 16_000, SPEECH_AND_EMOTION, description
    )


def _waveform(
    name: str, source: str, license: str, parameters: int, download: int, about: str, speakers: bool = False
) -> Encoder:
    good_for = (*(("speakers",) if speakers else ()), *SPEECH_AND_EMOTION)
    return Encoder(name, source, license, parameters, download, 16_000, good_for, about)


ENCODERS: tuple[Encoder, ...] = (
    _whisper("tiny.en", 8_208_384, 151_000_000, "English"),
    _whisper("tiny", 8_208_384, 151_000_000, "99 languages"),
    _whisper("base.en", 20_590_592, 290_000_000, "English"),
    _whisper("base", 20_590_592, 290_000_000, "99 languages"),
    _whisper("small", 88_154_112, 967_000_000, "99 languages"),
    _whisper("medium", 307_216_384, 3_060_000_000, "99 languages"),
    _whisper("large-v3", 636_968_960, 3_090_000_000, "100 languages"),
    _waveform(
        "distilhubert", "ntu-spml/distilhubert", "apache-2.0", 23_491_968, 94_000_000, "HuBERT distilled to 2 layers"
    ),
    _waveform(
        "hubert-base", "facebook/hubert-base-ls960", "apache-2.0", 94_371_712, 378_000_000, "English read speech"
    ),
    _waveform(
        "hubert-large", "facebook/hubert-large-ll60k", "apache-2.0", 315_438_720, 1_260_000_000, "English read speech"
    ),
    _waveform(
        "wavlm-base-plus",
        "microsoft/wavlm-base-plus",
        "cc-by-sa-3.0",
        94_381_936,
        378_000_000,
        "English, trained on overlapping speakers too",
        speakers=True,
    ),
    _waveform(
        "wavlm-large",
        "microsoft/wavlm-large",
        "cc-by-sa-3.0",
        315_453_120,
        1_260_000_000,
        "English, trained on overlapping speakers too",
        speakers=True,
    ),
    _waveform(
        "xls-r-300m",
        "facebook/wav2vec2-xls-r-300m",
        "apache-2.0",
        315_438_720,
        1_270_000_000,
        "wav2vec 2.0, 128 languages",
    ),
    _waveform(
        "w2v-bert-2", "facebook/w2v-bert-2.0", "mit", 580_493_120, 2_320_000_000, "a conformer, over 143 languages"
    ),
    Encoder(
        "ast",
        "MIT/ast-finetuned-audioset-10-10-0.4593",
        "bsd-3-clause",
        86_187_264,
        346_000_000,
        16_000,
        AUDIOSET,
        "Audio Spectrogram Transformer, AudioSet; windows of about 10 s",
    ),
    Encoder(
        "mn04",
        f"{_RELEASES}mn04_as_mAP_432.pt",
        "mit",
        983_000,
        4_000_000,
        32_000,
        AUDIOSET,
        "EfficientAT's MobileNetV3 of width 0.4, AudioSet",
        sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
    ),
    Encoder(
        "mn10",
        f"{_RELEASES}mn10_as_mAP_471.pt",
        "mit",
        4_880_000,
        19_700_000,
        32_000,
        AUDIOSET,
        "EfficientAT's MobileNetV3 of width 1, AudioSet",
        sha256="0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e",
    ),
    Encoder(
        "clap",
        "laion/clap-htsat-unfused",
        "apache-2.0",
        27_534_488,
        614_000_000,
        48_000,
        AUDIOSET,
        "CLAP's audio tower",
        is_supported=False,
    ),
)
_BY_NAME = {encoder.name: encoder for encoder in ENCODERS}


def find(name: str) -> Encoder:
    """The encoder of a short name or Hub name. Raises UsageError with the nearest known name for any other."""
    for encoder in ENCODERS:
        if name in (encoder.name, encoder.source):
            return encoder
    raise UsageError(unknown("encoder", name, _BY_NAME))


def hub_name(checkpoint: str) -> str:
    """The Hub name that a short name stands for; anything else unchanged.

    Raises UsageError where a folder here has the same name, and for an encoder that transformers does not open.
    """
    encoder = _BY_NAME.get(checkpoint)
    if encoder is None:
        return checkpoint
    if Path(checkpoint).is_dir():
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', a folder here and also the short name of '{encoder.source}'. "
            f"Write ./{checkpoint} for the folder, or {encoder.source} for the other."
        )
    if not encoder.is_supported or not encoder.is_on_hub:
        known = ", ".join(other.name for other in ENCODERS if other.is_supported and other.is_on_hub)
        raise UsageError(
            f"model.checkpoint received '{checkpoint}' ({encoder.description}), which cannot be opened here. "
            f"Choose one of: {known}."
        )
    return encoder.source


def statuses() -> list[Status]:
    """Every encoder, and whether it is cached; without huggingface_hub, nothing is."""
    has_cache = importlib.util.find_spec("huggingface_hub") is not None
    return [Status(encoder, cached_path(encoder.name) if has_cache else None) for encoder in ENCODERS]


def cached_path(name: str) -> Path | None:
    """The folder with an encoder's weights in the cache, without network; None if they are not there."""
    from auricle.models import hub_files

    encoder = find(name)
    if not encoder.is_on_hub:
        path = _release_path(encoder)
        return path.parent if path.is_file() else None
    model = hub_files.cached_model(encoder.source, encoder.revision)
    weights = hub_files.cached_weights(model, allow_pickle=True) if model is not None else None
    return weights.folder if weights is not None else None


def cached_encoders() -> list[CachedEncoder]:
    """The encoders that open without network: supported, and cached as safetensors or as a verified release."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return []
    from auricle.models import hub_files

    cached = []
    for encoder in (one for one in ENCODERS if one.is_supported):
        if not encoder.is_on_hub:
            if _release_path(encoder).is_file():
                cached.append(CachedEncoder(encoder, encoder.name, None))
        elif (model := hub_files.cached_model(encoder.source, encoder.revision)) and hub_files.cached_weights(model):
            cached.append(CachedEncoder(encoder, encoder.source, model.commit))
    return cached


def published_as(base_model: str | None) -> Encoder | None:
    """The encoder that a model's `base_model` names: its source on the Hub, or the file of its release."""
    names = {encoder.source if encoder.is_on_hub else Path(encoder.source).stem: encoder for encoder in ENCODERS}
    return names.get(base_model or "")


def fetch(name: str, *, allow_pickle: bool = False, progress: "Progress | None" = None) -> Fetched:
    """Download an encoder, or complete its download, and verify its files; those in the cache are verified too.

    Raises UsageError for an unknown name, for an encoder without safetensors unless `allow_pickle`, for a download that
    stopped, and for a file whose hash is not the expected one; that file is deleted.
    """
    from auricle.models import download, hub_files

    encoder = find(name)
    if not encoder.is_supported:
        raise UsageError(f"'{encoder.name}' ({encoder.source}) is listed, but auricle cannot run it yet.")
    if not encoder.is_on_hub:
        return Fetched(encoder, (_fetch_release(encoder, progress),), encoder.license, ())
    model = hub_files.hub_model(encoder.source, encoder.revision)
    weights = hub_files.fetch_weights(model, allow_pickle, progress)
    notes, license = list(weights.notes), model.license or encoder.license
    if model.offline:
        notes.append(f"The Hugging Face Hub cannot be reached ({model.offline}): the cached copy is used.")
    if license != encoder.license and license != "other":
        notes.append(f"Its page states the licence {license}; this version of auricle lists {encoder.license}.")
    files = []
    for file in weights.files:
        path = weights.folder / file.name
        # The cache names a file by the hash that the Hub listed when it was downloaded.
        name = path.resolve().name
        pinned = encoder.sha256 or file.sha256 or (name if re.fullmatch("[0-9a-f]{64}", name) else None)
        sha256 = download.verify(download.RemoteFile(file.name, file.url, file.size, pinned, file.git_sha1), path)
        by = "the catalogue's" if encoder.sha256 else "the Hub's" if pinned or file.git_sha1 else ""
        files.append(FetchedFile(path, path.stat().st_size, sha256, by))
    return Fetched(encoder, tuple(files), license, tuple(notes))


def weights_file(name: str) -> Path:
    """The published file of an encoder that is no model of transformers (EfficientAT), downloaded if not cached."""
    path = _release_path(find(name))
    return path if path.is_file() else fetch(name).files[0].path


def _release_path(encoder: Encoder) -> Path:
    from auricle.models import hub_files

    return hub_files.assets_folder() / "encoders" / encoder.name / encoder.source.rpartition("/")[2]


def _fetch_release(encoder: Encoder, progress: "Progress | None") -> FetchedFile:
    """Download a published file and verify it."""
    from huggingface_hub.errors import HfHubHTTPError

    from auricle.models import download

    path = _release_path(encoder)
    file = download.RemoteFile(path.name, encoder.source, sha256=encoder.sha256)
    try:
        download.download(file, path, path.with_suffix(".lock"), progress)
    except HfHubHTTPError as error:
        raise UsageError(
            f"'{encoder.name}' cannot be downloaded: {encoder.source} answers with status "
            f"{error.response.status_code}. Download it by other means, to {path}, and repeat the command."
        ) from error
    sha256 = download.verify(file, path)
    return FetchedFile(path, path.stat().st_size, sha256, "the catalogue's" if encoder.sha256 else "")
