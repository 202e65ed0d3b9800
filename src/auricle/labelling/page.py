"""The listening page: play random labelled clips, see their findings, and correct wrong labels.

It serves no file: a clip's audio and image are part of the page. Importing this needs the extra `demo`; do it inside
`gradio_environment`.
"""

import html
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
from starlette.middleware.trustedhost import TrustedHostMiddleware

from auricle.corpus.clip import Clip
from auricle.errors import AuricleError, DataError, UsageError
from auricle.labelling import selection
from auricle.labelling.clip_view import fill, render_clip
from auricle.labelling.corrections_file import CorrectionsFile
from auricle.labelling.selection import Filter, Session, View
from auricle.parallel import Progress
from auricle.recipe import Recipe
from auricle.serving import gradio_host, local_server
from auricle.serving.local_server import LOOPBACK_NAMES, Application
from auricle.training.grouping import inspect

HEADERS = ("Clip", "Label in the corpus", "Correct label", "Comment")
EXCLUDED = "(excluded)"
ALL = ""
# These calls are quick, and only the page itself makes them.
DIRECT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

Move = Callable[[View], View]


@dataclass(frozen=True)
class ListenOptions:
    """The corrections file, a run whose suspect labels become findings, and where to serve.

    `corpus_options` are the options that read the corpus; training needs the same ones.
    """

    corrections: Path
    run: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 0
    corpus_options: tuple[str, ...] = ()


def listen(
    data: str | Path, recipe: Recipe, options: ListenOptions, progress: Progress, on_ready: Callable[[str], None]
) -> None:
    """Inspect a corpus and serve the page until it is stopped; `on_ready` receives its URL.

    Raises DataError for a corpus that cannot be read or, if strict, has unusable clips; RunError for a run without a
    report; UsageError for corrections in the recipe, or a file or an address that is unavailable.
    """
    if recipe.data.corrections is not None:
        raise UsageError(
            f"data.corrections is '{recipe.data.corrections}', but this page corrects the corpus' own labels. To "
            f"continue with that file, use --corrections {recipe.data.corrections} alone."
        )
    with local_server.bind(options.host, options.port) as listener:
        inspected = inspect(data, recipe, progress, evidence=False)
        if inspected.index.num_features is not None:
            raise UsageError(
                f"'{data}' contains precomputed features, which cannot be played. `auricle inspect {data}` lists its "
                "contents."
            )
        if recipe.data.strict and inspected.audit.quarantined:
            first = inspected.audit.quarantined[0]
            raise DataError(
                f"{len(inspected.audit.quarantined)} clips are unusable, and --strict allows none; the first is "
                f"'{first.id}': {first.kind} ({first.detail}). Remove --strict to see them all."
            )
        session = Session(
            inspected.index,
            selection.collect_notes(inspected.audit, options.run),
            CorrectionsFile(options.corrections, inspected.index),
            selection.shuffle(len(inspected.index), options.seed),
            options.corpus_options,
        )
        local_server.run(create_app(session, local_server.is_loopback(options.host)), listener, on_ready)


def create_app(session: Session, local_only: bool) -> Application:
    """The page as an application. With `local_only` it answers only to this machine's own host names: otherwise a page
    of another site could reach it by DNS rebinding."""
    app = fastapi.FastAPI(openapi_url=None)
    if local_only:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES)
    gradio_host.mount(app, page(session), resources.files("auricle.labelling") / "templates" / "listen.css")
    return app


def page(session: Session) -> gr.Blocks:
    """Build the page and connect its controls."""
    with gr.Blocks(title="auricle listen", analytics_enabled=False) as blocks:
        view = gr.State(View())
        gr.HTML(
            f"<h1>Review labels</h1><p id='description'>{html.escape(session.index.description)}</p>", elem_id="title"
        )
        with gr.Row():
            filters = _filters(session)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5):
                position = gr.HTML(elem_id="position")
                clip = gr.HTML(elem_id="clip")
                with gr.Row():
                    previous = gr.Button("← Previous", min_width=90, elem_id="previous")
                    random = gr.Button("Random clip", variant="primary", min_width=90, elem_id="random")
                    following = gr.Button("Next →", min_width=90, elem_id="next")
            with gr.Column(scale=2, min_width=300):
                status = gr.HTML(elem_id="status")
                label = gr.Dropdown(None, label="Correct label", allow_custom_value=True, elem_id="correct-label")
                comment = gr.Textbox(label="Comment (optional)", elem_id="comment")
                save = gr.Button("Save correction", variant="primary", elem_id="save")
                exclude = gr.Button("Exclude this clip", elem_id="exclude")
                undo = gr.Button("Undo correction", elem_id="undo")
        heading = gr.HTML(elem_id="corrections-heading")
        options: dict[str, Any] = {"interactive": False, "wrap": True, "visible": False, "buttons": []}
        table = gr.Dataframe(headers=list(HEADERS), type="array", elem_id="corrections", **options)

        changed = [label, comment, undo, status, heading, table]
        everything = [view, clip, position, *changed]
        blocks.load(partial(_move, session, session.random), view, everything, **DIRECT)
        random.click(partial(_move, session, session.random), view, everything, **DIRECT)
        following.click(partial(_move, session, partial(session.step, step=1)), view, everything, **DIRECT)
        previous.click(partial(_move, session, partial(session.step, step=-1)), view, everything, **DIRECT)
        for control in filters:
            control.input(partial(_apply_filter, session), [view, *filters], everything, **DIRECT)
        save.click(partial(_save, session), [view, label, comment], changed, **DIRECT)

        def exclude_clip(view: View, comment: str) -> list[Any]:
            return _change(session, view, lambda clip: session.corrections.save(clip, "", comment))

        def undo_correction(view: View) -> list[Any]:
            return _change(session, view, lambda clip: session.corrections.undo(clip.id))

        def go_to_row(view: View, event: gr.SelectData) -> list[Any]:
            return _move(session, partial(session.go_to, id=event.row_value[0]), view)

        exclude.click(exclude_clip, [view, comment], changed, **DIRECT)
        undo.click(undo_correction, view, changed, **DIRECT)
        table.select(go_to_row, view, everything, **DIRECT)
    return blocks


def _filters(session: Session) -> list[gr.Dropdown]:
    labels = Counter(clip.label for clip in session.index)
    groups = Counter(clip.group for clip in session.index if clip.group is not None)
    counts = selection.count_clips(session.notes)
    findings = {selection.ANY_FINDING: len(session.notes)} if counts else {}
    group_name = session.index.group_name
    return [
        _dropdown("Class", "every class", dict(sorted(labels.items())), "class"),
        _dropdown(group_name.capitalize(), f"every {group_name}", dict(sorted(groups.items())), "group"),
        _dropdown("Finding", "with or without findings", findings | counts, "finding", selection.CORRECTED),
    ]


def _dropdown(title: str, default: str, counts: dict[str, int], id: str, *others: str) -> gr.Dropdown:
    choices = [(default, ALL), *((f"{name} ({count})", name) for name, count in counts.items())]
    choices += [(name, name) for name in others]
    return gr.Dropdown(choices, value=ALL, label=title, visible=len(choices) > 1, elem_id=f"filter-{id}")


def _apply_filter(session: Session, view: View, label: str, group: str, finding: str) -> list[Any]:
    filter = Filter(label or None, group or None, finding or None)
    return _move(session, partial(session.apply_filter, filter=filter), view)


def _move(session: Session, move: Move, view: View) -> list[Any]:
    try:
        view = move(view)
        selected = session.selected(view)
    except AuricleError as error:
        return [view, gr.skip(), gr.skip(), *_update(session, view, error)]
    clip = session.clip(view)
    if clip is None:
        return [view, "<p>No clip matches these filters. Change them.</p>", "", *_update(session, view)]
    position = "From the table of corrections"
    if view.position in selected:
        position = f"{selected.index(view.position) + 1} of {len(selected)} in corpus order"
    notes = session.notes.get(clip.id, ())
    return [view, render_clip(clip, notes, session.index.group_name), position, *_update(session, view)]


def _save(session: Session, view: View, label: str | None, comment: str) -> list[Any]:
    if not label or not label.strip():
        return _update(session, view, "Choose or type the correct label first, or exclude this clip.")
    return _change(session, view, lambda clip: session.corrections.save(clip, label, comment))


def _change(session: Session, view: View, change: Callable[[Clip], object]) -> list[Any]:
    """Change the current clip's correction; show on the page why it failed, if it did."""
    clip = session.clip(view)
    try:
        if clip is not None:
            change(clip)
    except (AuricleError, OSError) as error:
        return _update(session, view, error)
    return _update(session, view)


def _update(session: Session, view: View, error: Exception | str = "") -> list[Any]:
    """Label, comment, undo button, status, heading and table. After an error only the status changes."""
    try:
        corrections = session.corrections.read()
    except AuricleError as damaged:
        # The clip may have changed: the previous clip's input must not be saved for it.
        return [gr.Dropdown(value=None), "", gr.skip(), fill("status.html", error=damaged), gr.skip(), gr.skip()]
    if error:
        return [gr.skip(), gr.skip(), gr.skip(), fill("status.html", error=error), gr.skip(), gr.skip()]
    clip = session.clip(view)
    current = corrections.get(clip.id) if clip else None
    labels = sorted({*session.index.labels, *(row.label for row in corrections.values() if row.label)})
    rows = [[row.id, row.was, row.label or EXCLUDED, row.comment] for row in reversed(corrections.values())]
    path = shlex.quote(str(session.corrections.path))
    data = shlex.join([session.index.origin, *session.corpus_options])
    return [
        gr.Dropdown(choices=labels, value=(current.label or None) if current else None),
        current.comment if current else "",
        gr.Button(interactive=current is not None),
        fill("status.html", error="", correction=current),
        fill("corrections.html", count=len(corrections), path=path, data=data),
        gr.Dataframe(value=rows, visible=bool(rows)),
    ]
