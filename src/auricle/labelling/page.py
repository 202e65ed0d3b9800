"""The listening page: hear random labelled clips, see what is remarked on them, and mark wrong labels.

In: a Desk. Out: a Gradio page as an ASGI application. Gradio's counting, its history of runs and its web fonts are off,
and no file can be had through it: a clip's sound and picture travel inside the page. Importing this needs the extra
`demo`, and belongs inside `environment.closed`.
"""

import html
import os
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from auricle.corpus.clip import Clip
from auricle.corpus.corrections import Fix
from auricle.errors import AuricleError, DataError, UsageError
from auricle.labelling import selection
from auricle.labelling.clip_view import card
from auricle.labelling.corrections_file import Marks
from auricle.labelling.selection import Choice
from auricle.labelling.session import Desk, View
from auricle.parallel import Progress
from auricle.preparation.prepare import inspect
from auricle.recipe import Recipe
from auricle.serving.local_server import LOOPBACK_NAMES, Application, claim, is_loopback, serve
from auricle.serving.upload_guard import Gate

HEADERS = ("clip", "was", "is", "comment")
LEFT_OUT = "(left out)"
ALL = ""
# Answers come at once, and nobody else is to call these by name.
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

Move = Callable[[View], View]


@dataclass(frozen=True)
class Asked:
    """What a listener asks for: the file of marks, perhaps a run whose doubts are findings too, and where to serve.

    `reading` are the options by which the corpus was read, which training will need as well.
    """

    corrections: Path
    run: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 0
    reading: tuple[str, ...] = ()


def listen(data: str | Path, recipe: Recipe, asked: Asked, progress: Progress, opened: Callable[[str], None]) -> None:
    """Inspect a corpus and serve the page until it is stopped; `opened` gets its address.

    Raises DataError for a corpus that cannot be read, or, if strict, not in whole; UsageError for fixes in the recipe,
    a file of marks that cannot be written, or an address that cannot be had; RunError for a run without a report.
    """
    if recipe.data.corrections is not None:
        raise UsageError(
            f"data.corrections is '{recipe.data.corrections}', but marks are made on the corpus' own labels. To go on with that "
            "file, name it with --corrections alone."
        )
    with claim(asked.host, asked.port) as listener:
        found = inspect(data, recipe, progress)
        if found.index.num_features is not None:
            raise UsageError(
                f"'{data}' holds precomputed features, which cannot be played: there is nothing to listen to. "
                "`auricle inspect` says what is in it."
            )
        if recipe.data.strict and found.audit.quarantined:
            first = found.audit.quarantined[0]
            raise DataError(
                f"{len(found.audit.quarantined)} clips are unusable and strict was asked for; the first is "
                f"'{first.id}': {first.kind} ({first.detail}). Listen without --strict to see them all."
            )
        desk = Desk(
            found.index,
            selection.remarks_of(found.audit, asked.run),
            Marks(asked.corrections, found.index),
            selection.shuffled(len(found.index), asked.seed),
            asked.reading,
        )
        serve(application(desk, is_loopback(asked.host)), listener, opened)


def application(desk: Desk, private: bool) -> Application:
    """The page as an application. A private one answers to this machine's own names only: a stranger's page in the same
    browser could otherwise reach it under a name that it lets point here."""
    app = fastapi.FastAPI(openapi_url=None)
    if private:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES)
    theme = gr.themes.Default(
        font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"), primary_hue="blue"
    )
    css = resources.files("auricle.serving").joinpath("templates/listen.css").read_text(encoding="utf-8")
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    gate = Middleware(Gate, folder=folder, body_bytes=0, is_stopping=lambda: False)  # nothing to upload
    closed: dict[str, Any] = {"run_history": False, "footer_links": [], "ssr_mode": False, "max_file_size": 1}
    closed["app_kwargs"] = {"middleware": [gate]}
    mounted: Application = gr.mount_gradio_app(app, page(desk), "/", theme=theme, css=css, **closed)
    return mounted


def page(desk: Desk) -> gr.Blocks:
    """Lay the page out and say what its controls do."""
    with gr.Blocks(title="auricle listen", analytics_enabled=False) as blocks:
        view = gr.State(View())
        gr.HTML(f"<h1>Listen</h1><p>{html.escape(desk.index.description)}</p>", elem_id="title")
        with gr.Row():
            filters = _filters(desk)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5):
                place = gr.HTML(elem_id="place")
                shown = gr.HTML(elem_id="clip")
                with gr.Row():
                    previous = gr.Button("← Previous", elem_id="previous")
                    another = gr.Button("Draw another", variant="primary", elem_id="another")
                    following = gr.Button("Next →", elem_id="next")
            with gr.Column(scale=2, min_width=300):
                status = gr.HTML(elem_id="status")
                words = (
                    gr.Dropdown(None, label="Its right label", allow_custom_value=True, elem_id="right-label"),
                    gr.Textbox(label="Comment (optional)", elem_id="comment"),
                )
                mark = gr.Button("Mark this label", variant="primary", elem_id="mark")
                leave = gr.Button("Leave this clip out", elem_id="leave-out")
                undo = gr.Button("Undo the mark", elem_id="undo")
        heading = gr.HTML(elem_id="marks-heading")
        table = gr.Dataframe(
            headers=list(HEADERS),
            type="array",
            interactive=False,
            wrap=True,
            visible=False,
            buttons=[],
            elem_id="marks",
        )

        told = [*words, undo, status, heading, table]
        moved = [view, shown, place, *told]
        blocks.load(partial(_move, desk, desk.drawn), view, moved, **QUICK)
        another.click(partial(_move, desk, desk.drawn), view, moved, **QUICK)
        following.click(partial(_move, desk, partial(desk.stepped, by=1)), view, moved, **QUICK)
        previous.click(partial(_move, desk, partial(desk.stepped, by=-1)), view, moved, **QUICK)
        for one in filters:
            one.input(partial(_narrow, desk), [view, *filters], moved, **QUICK)
        mark.click(partial(_mark, desk), [view, *words], told, **QUICK)
        leave.click(partial(_leave_out, desk), [view, words[1]], told, **QUICK)
        undo.click(partial(_undo, desk), view, told, **QUICK)

        def jump(view: View, event: gr.SelectData) -> list[Any]:
            return _move(desk, partial(desk.jumped, id=event.row_value[0]), view)

        table.select(jump, view, moved, **QUICK)
    return blocks


def _filters(desk: Desk) -> list[gr.Dropdown]:
    """The class, the group where there are groups, and the finding; each with its number of clips."""
    labels = Counter(clip.label for clip in desk.index)
    groups = Counter(clip.group for clip in desk.index if clip.group is not None)
    found = selection.kinds(desk.notes)
    findings = {selection.ANY_FINDING: len(desk.notes)} if found else {}
    return [
        _filter("Class", "every class", dict(sorted(labels.items())), "class"),
        _filter(
            desk.index.group_name.capitalize(), f"every {desk.index.group_name}", dict(sorted(groups.items())), "group"
        ),
        _filter("Finding", "with or without a finding", findings | found, "finding", selection.MARKED),
    ]


def _filter(title: str, every: str, counts: dict[str, int], id: str, *others: str) -> gr.Dropdown:
    choices = [(every, ALL), *((f"{name} ({count})", name) for name, count in counts.items())]
    choices += [(name, name) for name in others]
    return gr.Dropdown(choices, value=ALL, label=title, visible=len(choices) > 1, elem_id=f"by-{id}")


def _narrow(desk: Desk, view: View, label: str, group: str, finding: str) -> list[Any]:
    return _move(desk, lambda view: desk.narrowed(view, Choice(label or None, group or None, finding or None)), view)


def _move(desk: Desk, move: Move, view: View) -> list[Any]:
    """Go to another clip; everything on the page is new."""
    try:
        view = move(view)
        chosen = desk.chosen(view)
    except AuricleError as error:
        return [view, gr.skip(), gr.skip(), *_told(desk, view, error)]
    clip = desk.clip(view)
    if clip is None:
        return [view, "<p>No clip is like that. Choose otherwise.</p>", "", *_told(desk, view)]
    place = "From the table of marks"
    if view.at in chosen:
        place = f"{chosen.index(view.at) + 1} of {len(chosen)} in the order of the corpus"
    return [view, card(clip, desk.notes.get(clip.id, ()), desk.index.group_name), place, *_told(desk, view)]


def _mark(desk: Desk, view: View, label: str | None, comment: str) -> list[Any]:
    if not label or not label.strip():
        return _told(desk, view, "Choose or type the right label first, or leave this clip out.")
    return _change(desk, view, lambda clip: desk.marks.put(clip, label, comment))


def _leave_out(desk: Desk, view: View, comment: str) -> list[Any]:
    return _change(desk, view, lambda clip: desk.marks.put(clip, "", comment))


def _undo(desk: Desk, view: View) -> list[Any]:
    return _change(desk, view, lambda clip: desk.marks.undo(clip.id))


def _change(desk: Desk, view: View, change: Callable[[Clip], object]) -> list[Any]:
    """Change the mark of the clip that is shown; what cannot be done is said on the page."""
    clip = desk.clip(view)
    try:
        if clip is not None:
            change(clip)
    except (AuricleError, OSError) as error:
        return _told(desk, view, error)
    return _told(desk, view)


def _told(desk: Desk, view: View, refusal: Exception | str = "") -> list[Any]:
    """What depends on the marks: right label, comment, undo, status, heading, table. After a refusal they stay."""
    try:
        marks = desk.marks.all()
    except AuricleError as error:
        # The clip may be another one by now: what was written of the former must not be marked on it.
        said = f"<p class='refused'>{html.escape(str(error))}</p>"
        return [gr.Dropdown(value=None), "", gr.skip(), said, gr.skip(), gr.skip()]
    if refusal:
        said = f"<p class='refused'>{html.escape(str(refusal))}</p>"
        return [gr.skip(), gr.skip(), gr.skip(), said, gr.skip(), gr.skip()]
    clip = desk.clip(view)
    fix = marks.get(clip.id) if clip else None
    labels = sorted({*desk.index.labels, *(fix.label for fix in marks.values() if fix.label)})
    rows = [[fix.id, fix.was, fix.label or LEFT_OUT, fix.comment] for fix in reversed(marks.values())]
    return [
        gr.Dropdown(choices=labels, value=(fix.label or None) if fix else None),
        fix.comment if fix else "",
        gr.Button(interactive=fix is not None),
        _status(fix),
        _heading(desk, len(marks)),
        gr.Dataframe(value=rows, visible=bool(rows)),
    ]


def _status(fix: Fix | None) -> str:
    if fix is None:
        return "<p class='soft'>Is the label right? If it is, go on. If not:</p>"
    became = f"<b>{html.escape(fix.label)}</b>" if fix.label else "<b>left out</b>"
    return f"<p class='marked'>Marked: {html.escape(fix.was)} → {became}</p>"


def _heading(desk: Desk, count: int) -> str:
    path = html.escape(shlex.quote(str(desk.marks.path)))
    if not count:
        return f"<h3>No marks yet</h3><p class='soft'>They will be saved in <code>{path}</code> as they are made.</p>"
    data = html.escape(shlex.join([desk.index.origin, *desk.reading]))
    marks = "1 mark" if count == 1 else f"{count} marks"
    return (
        f"<h3>{marks} in <code>{path}</code></h3>"
        f"<p class='soft'>Learn with them: <code>auricle train {data} --corrections {path}</code></p>"
    )
