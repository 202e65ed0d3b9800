"""The web page of a served model: classify one file, a recording or a batch, or the microphone; read the model card.

An upload is removed once it is read; audio and images are part of the page. Importing this needs the extra `demo`; do
it inside `gradio_environment`.
"""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr

from auricle.audio.recordings import whole_recording
from auricle.errors import AudioError
from auricle.inference.classifier import Prediction
from auricle.run_folder import RunFolder
from auricle.serving import gradio_host, render
from auricle.serving.limits import RequestError
from auricle.serving.microphone import NAME, MicrophoneStream
from auricle.serving.service import InferenceService
from auricle.serving.upload_guard import EXPIRY_SECONDS, MAX_FILES, postpone_expiry, read_upload

# Only the page itself calls these functions, for several visitors at a time.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUEUED: dict[str, Any] = {**PRIVATE, "concurrency_limit": 16}
CHUNK_SECONDS = 0.5
# A chunk that is later than this was lost, not slow.
MAX_DELAY_SECONDS = 2.0
# The batch table is sent again this often while it grows, and this many files of one visitor are in progress.
UPDATE_SECONDS = 0.7
CONCURRENT_FILES = 4
# A batch waits this long in all for a service at its limit.
RETRY_SECONDS = 60.0
# Screen readers announce what changes here.
LIVE_REGION = "element.setAttribute('aria-live', 'polite')"
EXPIRED = "The uploaded file has expired. Upload it again."


def mount(app: fastapi.FastAPI, service: InferenceService, folder: Path, token: str | None = None) -> None:
    """Mount the page at the root of a service, after its own routes. With a token, visitors log in with it.

    It shows the model card and the report of `folder`, which holds the model.
    """
    gradio_host.mount(
        app,
        page(service, _card(folder), RunFolder(folder).report_page),
        resources.files("auricle.serving") / "templates" / "serve.css",
        max_upload_bytes=service.limits.body_bytes,
        is_stopping=lambda: service.stopping,
        check_login=None
        if token is None
        else lambda _name, password: hmac.compare_digest(password.encode(), token.encode()),
    )


def page(service: InferenceService, card: str, report: Path) -> gr.Blocks:
    """Build the page and connect its controls. `card` is Markdown, `report` HTML."""
    with gr.Blocks(
        title=f"auricle · {service.name}", analytics_enabled=False, delete_cache=(30, round(EXPIRY_SECONDS))
    ) as blocks:
        gr.HTML("<h1>Audio classification</h1>", elem_id="title")
        with gr.Tabs():
            with gr.Tab("Classify", id="classify"):
                _classify_tab(service)
            with gr.Tab("Batch", id="batch"):
                _batch_tab(service)
            if service.classifier.settings.is_audio:
                with gr.Tab("Live", id="live"):
                    _live_tab(service)
            with gr.Tab("About", id="about"):
                gr.Markdown(card or "This model has no model card.", elem_id="model-card")
            if report.is_file():
                with gr.Tab("Report", id="report-tab") as tab:
                    frame = gr.HTML(elem_id="report")
                # It is large: send it only when the tab is opened.
                html = report.read_text(encoding="utf-8")
                content = partial(render.fill, "report_frame.html", page=html, link=render.data_uri("text/html", html))
                tab.select(content, None, frame, queue=False, **PRIVATE)
    blocks.queue(max_size=128, api_open=False)
    return blocks


def _card(folder: Path) -> str:
    """The model card of a folder, without its YAML header; empty where there is none."""
    paths = (RunFolder(folder).model_card, folder / "README.md")
    card = next((path.read_text(encoding="utf-8") for path in paths if path.is_file()), "")
    return card[4:].partition("\n---\n")[2].lstrip() if card.startswith("---\n") else card


def _classify_tab(service: InferenceService) -> None:
    limits = service.limits
    with gr.Row(equal_height=False, elem_classes="upload-row"):
        file = gr.File(label="Upload an audio file", type="filepath", height=140, elem_id="file")
        recording = gr.Audio(
            label="Record from the microphone",
            sources=["microphone"],
            type="filepath",
            editable=False,
            buttons=[],
            visible=service.classifier.settings.is_audio,
            elem_id="recording",
        )
    limit = f"Maximum {limits.body_bytes / (1 << 20):.3g} MiB and {limits.seconds / 60:.3g} minutes per file."
    gr.HTML(render.fill("labels.html", labels=service.classifier.labels, limit=limit), elem_id="labels")
    result = gr.HTML(elem_id="result", js_on_load=LIVE_REGION)
    options: dict[str, Any] = {**QUEUED, "show_progress_on": result}
    file.upload(partial(_classify, service), file, [file, result], **options)
    recording.stop_recording(partial(_classify, service), recording, [recording, result], **options)


def _batch_tab(service: InferenceService) -> None:
    files = gr.File(
        label="Upload audio files", file_count="multiple", type="filepath", height=140, elem_id="batch-files"
    )
    gr.HTML(f"<p class='soft'>Maximum {MAX_FILES * service.limits.body_bytes / (1 << 20):.3g} MiB in total.</p>")
    result = gr.HTML(elem_id="batch-result", js_on_load=LIVE_REGION)
    files.upload(partial(_classify_batch, service), files, [files, result], show_progress="hidden", **QUEUED)


def _live_tab(service: InferenceService) -> None:
    stream = gr.State(None, time_to_live=3600)
    microphone = gr.Audio(
        label="Microphone", sources=["microphone"], type="filepath", streaming=True, buttons=[], elem_id="microphone"
    )
    result = gr.HTML(
        render.render_live(None, (), "Press Record and allow the browser to use the microphone."), elem_id="live-result"
    )
    microphone.start_recording(lambda: None, None, stream, queue=False, show_progress="hidden", **PRIVATE)
    microphone.stream(
        partial(_classify_chunk, service),
        [stream, microphone],
        [stream, result],
        stream_every=CHUNK_SECONDS,
        time_limit=None,
        show_progress="hidden",
        **QUEUED,
    )
    microphone.stop_recording(_finish_stream, stream, [stream, result], show_progress="hidden", **QUEUED)


async def _classify(service: InferenceService, path: str | None) -> tuple[Any, Any]:
    if path is None:
        return gr.skip(), gr.skip()
    name = Path(path).name
    try:
        timeline = await service.predict_file(await read_upload(path), name)
        classifier = service.classifier
        return None, await asyncio.to_thread(
            render.render_prediction, timeline, classifier.labels, classifier.threshold
        )
    except FileNotFoundError:
        return None, render.fill("error.html", name=name, detail=EXPIRED, kind="")
    except RequestError as error:
        return None, render.fill("error.html", name=name, detail=error.detail, kind=error.kind)


async def _classify_batch(service: InferenceService, paths: list[str] | None) -> AsyncIterator[tuple[Any, Any]]:
    """Classify many files in order, a few at a time; the table grows as they finish."""
    paths = paths or []
    semaphore = asyncio.Semaphore(CONCURRENT_FILES)
    tasks = [asyncio.create_task(_classify_row(service, path, semaphore)) for path in paths]
    rows: list[Prediction] = []
    updated = time.monotonic()
    try:
        for task in tasks:
            rows.append(await task)
            if time.monotonic() - updated > UPDATE_SECONDS:
                updated = time.monotonic()
                postpone_expiry(paths[len(rows) :])
                yield gr.skip(), render.render_batch(rows, len(paths))
        yield None, render.render_batch(rows, len(paths))
    finally:
        for task in tasks:
            task.cancel()


async def _classify_row(service: InferenceService, path: str, semaphore: asyncio.Semaphore) -> Prediction:
    name = Path(path).name
    async with semaphore:
        end = time.monotonic() + RETRY_SECONDS
        try:
            content = await read_upload(path)
            while True:
                try:
                    return replace((await service.predict_file(content, name)).prediction, name=name)
                except RequestError as error:
                    if error.status != 429 or time.monotonic() > end:
                        raise
                await asyncio.sleep(1)
        except FileNotFoundError:
            return Prediction(name, (), 0.0, error=EXPIRED)
        except RequestError as error:
            return Prediction(name, (), 0.0, error=str(error))


async def _classify_chunk(
    service: InferenceService, stream: MicrophoneStream | None, path: str | None
) -> tuple[Any, Any]:
    """Classify the windows that the microphone's newest chunk completes, or what there is of the first window."""
    start = time.monotonic()
    if path is None:
        return gr.skip(), gr.skip()
    try:
        stream = stream or MicrophoneStream(service.classifier, CHUNK_SECONDS)
        stream.add(await read_upload(path), start)
        prediction = await _latest_prediction(service, stream)
    except FileNotFoundError:
        return gr.skip(), gr.skip()
    except (AudioError, RequestError) as error:
        return stream, render.render_live(None, (), str(error))
    latency = CHUNK_SECONDS + time.monotonic() - start
    status = (
        f"{stream.seconds:.1f} s received. Each prediction covers the last {stream.spec.seconds:g} s; a new one "
        f"follows every {stream.spec.hop:g} s. Latency: {latency:.2f} s."
    )
    if stream.missed > MAX_DELAY_SECONDS:
        status += f" The server is overloaded: about {stream.missed:.0f} s are missing, and event times lag by that."
    return stream, render.render_live(prediction, stream.events, status)


async def _latest_prediction(service: InferenceService, stream: MicrophoneStream) -> Prediction | None:
    prediction = None
    for window in stream.windows():
        recording = whole_recording(NAME, window.pieces[0], stream.settings)
        logits = await service.predict_samples(recording)
        stream.add_logits(window, logits)
        prediction = service.classifier.prediction(recording, logits)
    if prediction is None and (newest := stream.newest()).error is None:
        prediction = service.classifier.prediction(newest, await service.predict_samples(newest))
    return prediction


def _finish_stream(stream: MicrophoneStream | None) -> tuple[Any, Any]:
    """End the last event with the recording."""
    if stream is None:
        return None, gr.skip()
    stream.finish()
    return None, render.render_live(None, stream.events, f"Stopped after {stream.seconds:.1f} s.")
