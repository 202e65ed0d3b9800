"""The state of the listening page, without the page: the corpus, its corrections, and each visitor's position.

In: an Index, the notes on its clips, the corrections file. Out: Views, each one step from another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from auricle.corpus.clip import Clip, Index
from auricle.labelling import selection
from auricle.labelling.corrections_file import CorrectionsFile
from auricle.labelling.selection import Filter, Notes


@dataclass(frozen=True)
class View:
    """What one visitor sees: a filter, a position in the Index, and how far the shuffled order is used."""

    filter: Filter = field(default_factory=Filter)
    position: int | None = None
    next_index: int = 0


@dataclass(frozen=True)
class Session:
    """What all visitors share. `order` is the shuffled order; `corpus_options` are the options that read the corpus."""

    index: Index
    notes: Notes
    corrections: CorrectionsFile
    order: Sequence[int]
    corpus_options: Sequence[str] = ()

    def selected(self, view: View) -> list[int]:
        """The positions that a view's filter allows."""
        corrected = self.corrections.read() if view.filter.finding == selection.CORRECTED else ()
        return selection.select(self.index, self.notes, view.filter, corrected)

    def clip(self, view: View) -> Clip | None:
        """The current clip, if there is one."""
        return None if view.position is None else self.index.clips[view.position]

    def random(self, view: View) -> View:
        """Go to a random clip; to none if the filter allows none."""
        selected = self.selected(view)
        if not selected:
            return replace(view, position=None)
        position, next_index = selection.next_random(selected, self.order, view.next_index)
        return replace(view, position=position, next_index=next_index)

    def step(self, view: View, step: int) -> View:
        """Go to the next (1) or the previous (-1) clip that the filter allows."""
        selected = self.selected(view)
        if not selected or view.position is None:
            return self.random(view)
        return replace(view, position=selection.neighbour(selected, view.position, step))

    def apply_filter(self, view: View, filter: Filter) -> View:
        """Change the filter; stay at the current clip if the new filter allows it."""
        view = replace(view, filter=filter)
        return view if view.position in self.selected(view) else self.random(view)

    def go_to(self, view: View, id: str) -> View:
        """Go to a clip by its id, whatever the filter; stay if there is no such clip."""
        position = next((position for position, clip in enumerate(self.index) if clip.id == id), view.position)
        return replace(view, position=position)
