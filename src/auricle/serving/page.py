"""The web page of a served model: drop or record a sound, many sounds, or listen live; and read the model's card.

In: what the service asks by (an Asking), and what is to be read of the model. Out: the service with a Gradio page at
its root. Gradio's counting, history and fonts are off; what is sent is deleted when it is read; sounds and pictures
travel inside the page. Importing this needs the extra `demo`, and belongs inside `environment.closed`.
"""

import asyncio
import hmac
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import numpy as np
from starlette.middleware import Middleware

from auricle.errors import AudioError
from auricle.inference.classifier import Answer
from auricle.inference.events import Event
from auricle.serving import render
from auricle.serving.limits import Refused
from auricle.serving.microphone import Ear, as_file
from auricle.serving.render import Row
from auricle.serving.service import Asking, Wanted
from auricle.serving.upload_guard import KEPT_SECONDS, UPLOADED_BODIES, Gate, keep, taken

# Nobody else is to call these by name, and several visitors are answered at a time.
ASKED: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 16}
PIECE_SECONDS = 0.5
PLAIN = Wanted()
# Less than this is a piece that took its time.
MISSED_SECONDS = 2.0
# A table that grows is sent anew so often, and so many files of one visitor are asked about at a time.
TOLD_SECONDS = 0.7
AT_A_TIME = 4
# A service that is full says so at once; a batch waits, for this long in all.
PATIENCE_SECONDS = 60.0
# Readers of screens say what changes here.
ANNOUNCED = "element.setAttribute('aria-live', 'polite')"
NOTHING_YET = "Press record and let the browser use the microphone."
GONE = "The file was gone before it could be read. Send it again."


@dataclass(frozen=True)
class About:
    """What can be read of a model: its name, its card as Markdown, and the report of its run as HTML."""

    name: str
    card: str = ""
    report: str = ""


def about(folder: Path) -> About:
    """Find card and report of a run, model or exported folder; what is not there is empty."""
    card = next((place for place in (folder / "model" / "README.md", folder / "README.md") if place.is_file()), None)
    report = folder / "report.html"
    return About(
        folder.resolve().name,
        _without_header(card.read_text(encoding="utf-8")) if card else "",
        report.read_text(encoding="utf-8") if report.is_file() else "",
    )


def mount(app: fastapi.FastAPI, asking: Asking, about: About, token: str | None = None) -> None:
    """Mount the page at the root of a service, after its own routes. With a token, visitors sign in by it."""
    theme = gr.themes.Default(
        font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"), primary_hue="blue"
    )
    templates = resources.files("auricle.serving") / "templates"
    css = "".join((templates / name).read_text(encoding="utf-8") for name in ("listen.css", "ask.css"))
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    limits = asking.limits
    gate = Middleware(Gate, folder=folder, body_bytes=limits.body_bytes, is_stopping=lambda: asking.stopping)
    gr.mount_gradio_app(
        app,
        page(asking, about),
        "/",
        theme=theme,
        css=css,
        head='<meta name="viewport" content="width=device-width, initial-scale=1">',
        max_file_size=limits.body_bytes,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        auth=None if token is None else partial(_knows, token),
        auth_message="The password is the service's token. Any name will do.",
        app_kwargs={"middleware": [gate]},
    )


def page(asking: Asking, about: About) -> gr.Blocks:
    """Lay the page out and say what its controls do."""
    with gr.Blocks(
        title=f"auricle · {about.name}", analytics_enabled=False, delete_cache=(30, round(KEPT_SECONDS))
    ) as blocks:
        gr.HTML("<h1>What is this sound?</h1>", elem_id="title")
        with gr.Tabs():
            with gr.Tab("Listen", id="listen"):
                _listen(asking)
            with gr.Tab("Batch", id="batch"):
                _batch(asking)
            if asking.classifier.settings.num_features is None:
                with gr.Tab("Live", id="live"):
                    _live(asking)
            with gr.Tab("About", id="about"):
                gr.Markdown(about.card or "This model has no card.", elem_id="card")
            if about.report:
                with gr.Tab("Report", id="report") as tab:
                    report = gr.HTML(elem_id="report")
                # It is large: it comes when somebody wants to read it.
                tab.select(lambda: render.report(about.report), None, report, queue=False, api_visibility="private")
    blocks.queue(max_size=128, api_open=False)
    return blocks


def _listen(asking: Asking) -> None:
    limits = asking.limits
    with gr.Row(equal_height=False, elem_classes="given"):
        dropped = gr.File(label="Drop a sound, or choose a file", type="filepath", height=140, elem_id="drop")
        recorded = gr.Audio(
            label="Or record one",
            sources=["microphone"],
            type="filepath",
            editable=False,
            buttons=[],
            visible=asking.classifier.settings.num_features is None,
            elem_id="record",
        )
    limit = f"up to {limits.body_bytes / 1e6:.3g} MB and {limits.seconds / 60:.3g} minutes"
    gr.HTML(render.known(asking.classifier.labels, f"A file may have {limit}."), elem_id="known")
    result = gr.HTML(elem_id="result", js_on_load=ANNOUNCED)
    shown: dict[str, Any] = {**ASKED, "show_progress_on": result}
    dropped.upload(partial(_hear, asking), dropped, [dropped, result], **shown)
    recorded.stop_recording(partial(_hear, asking), recorded, [recorded, result], **shown)


def _batch(asking: Asking) -> None:
    dropped = gr.File(
        label="Drop many sounds, or choose files",
        file_count="multiple",
        type="filepath",
        height=140,
        elem_id="drop-many",
    )
    most = UPLOADED_BODIES * asking.limits.body_bytes / 1e6
    gr.HTML(f"<p class='soft'>Up to {most:.3g} MB together.</p>")
    result = gr.HTML(elem_id="answers", js_on_load=ANNOUNCED)
    dropped.upload(partial(_hear_all, asking), dropped, [dropped, result], show_progress="hidden", **ASKED)


def _live(asking: Asking) -> None:
    ear = gr.State(None, time_to_live=3600)
    microphone = gr.Audio(
        label="Microphone", sources=["microphone"], type="filepath", streaming=True, buttons=[], elem_id="microphone"
    )
    result = gr.HTML(render.moment(None, (), NOTHING_YET), elem_id="now")
    microphone.start_recording(lambda: None, None, ear, queue=False, show_progress="hidden", api_visibility="private")
    microphone.stream(
        partial(_hear_piece, asking),
        [ear, microphone],
        [ear, result],
        stream_every=PIECE_SECONDS,
        time_limit=None,
        show_progress="hidden",
        **ASKED,
    )
    microphone.stop_recording(_end, ear, [ear, result], show_progress="hidden", **ASKED)


async def _hear(asking: Asking, path: str | None) -> tuple[Any, Any]:
    """Answer for one file that was sent; the control is empty again."""
    if path is None:
        return gr.skip(), gr.skip()
    name = Path(path).name
    try:
        found = await asking.hear(await taken(path), name)
        classifier = asking.classifier
        return None, await asyncio.to_thread(render.told, found, classifier.labels, classifier.threshold)
    except FileNotFoundError:
        return None, render.refused(name, GONE)
    except Refused as error:
        return None, render.refused(name, error.detail, error.kind)


async def _hear_all(asking: Asking, paths: list[str] | None) -> AsyncIterator[tuple[Any, Any]]:
    """Answer for many files, in order, a few at a time; the table grows as they come."""
    paths = paths or []
    few = asyncio.Semaphore(AT_A_TIME)

    async def one(path: str) -> Row:
        async with few:
            return await _row(asking, path)

    pending = [asyncio.create_task(one(path)) for path in paths]
    rows: list[Row] = []
    told = time.monotonic()
    try:
        for task in pending:
            rows.append(await task)
            if time.monotonic() - told > TOLD_SECONDS:
                told = time.monotonic()
                keep(paths[len(rows) :])
                yield gr.skip(), render.table(rows, len(paths))
        yield None, render.table(rows, len(paths))
    finally:
        for task in pending:
            task.cancel()


async def _row(asking: Asking, path: str) -> Row:
    name = Path(path).name
    try:
        content = await taken(path)
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return render.row(name, (await asking.hear(content, name)).answer)
            except Refused as error:
                if error.status != 429 or time.monotonic() > end:
                    raise
            await asyncio.sleep(1)
    except FileNotFoundError:
        return Row(name, note=GONE, failed=True)
    except Refused as error:
        return Row(name, note=str(error), failed=True)


async def _hear_piece(asking: Asking, ear: Ear | None, path: str | None) -> tuple[Any, Any]:
    """Answer for the windows that a microphone's newest piece fills, or for what there is of the first."""
    start = time.monotonic()
    if path is None:
        return gr.skip(), gr.skip()
    try:
        ear = ear or Ear(asking.classifier, PIECE_SECONDS)
        ear.hear(await taken(path), start)
        answer = await _answer(asking, ear)
    except FileNotFoundError:
        return gr.skip(), gr.skip()
    except (AudioError, Refused) as error:
        return ear, render.moment(None, (), str(error))
    late = PIECE_SECONDS + time.monotonic() - start
    said = (
        f"Heard {ear.seconds:.1f} s. An answer is about the last {ear.window_seconds:g} s and comes every "
        f"{ear.hop / ear.sample_rate:g} s; this one was ready {late:.2f} s after its last piece began."
    )
    if ear.missed > MISSED_SECONDS:
        said += f" Too much at once: about {ear.missed:.0f} s were not heard, and the times of events lag by that."
    return ear, render.moment(answer, _events(ear), said)


async def _answer(asking: Asking, ear: Ear) -> Answer | None:
    answer = None
    for number, samples in ear.windows():
        answer = (await asking.hear(as_file(samples, ear.sample_rate), "microphone", PLAIN)).answer
        likely = {choice.label: choice.probability for choice in answer.choices}
        ear.answered(number, samples, np.array([likely[label] for label in ear.labels]))
    if answer is None and len(ear.newest()):
        answer = (await asking.hear(as_file(ear.newest(), ear.sample_rate), "microphone", PLAIN)).answer
    return answer


def _events(ear: Ear) -> list[Event]:
    return [*ear.events, *([ear.current] if ear.current else [])]


def _end(ear: Ear | None) -> tuple[Any, Any]:
    """The recording is over: its last event is, too."""
    if ear is None:
        return None, gr.skip()
    ear.finish()
    return None, render.moment(None, list(ear.events), f"Stopped after {ear.seconds:.1f} s.")


def _knows(token: str, _name: str, password: str) -> bool:
    return hmac.compare_digest(password.encode(), token.encode())


def _without_header(card: str) -> str:
    """A card's text without the YAML before it, which is for programs."""
    if card.startswith("---\n"):
        return card[4:].partition("\n---\n")[2].lstrip()
    return card
