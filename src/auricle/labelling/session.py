"""What the listening page knows, without the page: the corpus, its marks, and what each visitor looks at.

In: an Index, the remarks on its clips, the file of marks. Out: Views, each the step from one clip to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from auricle.corpus.clip import Clip, Index
from auricle.labelling import selection
from auricle.labelling.corrections_file import Marks
from auricle.labelling.selection import Choice, Remarks


@dataclass(frozen=True)
class View:
    """What one visitor looks at: a choice of clips, a position in the Index, and a place in the shuffled order."""

    choice: Choice = field(default_factory=Choice)
    at: int | None = None
    turn: int = 0


@dataclass(frozen=True)
class Desk:
    """What all visitors share. `order` is the shuffled order in which clips are drawn, `reading` how they were read."""

    index: Index
    notes: Remarks
    marks: Marks
    order: Sequence[int]
    reading: Sequence[str] = ()

    def chosen(self, view: View) -> list[int]:
        """The positions that a view's choice allows."""
        marked = self.marks.all() if view.choice.finding == selection.MARKED else ()
        return selection.choose(self.index, self.notes, view.choice, marked)

    def clip(self, view: View) -> Clip | None:
        """The clip that is looked at, if any is."""
        return None if view.at is None else self.index.clips[view.at]

    def drawn(self, view: View) -> View:
        """Go to the next clip by chance; to none where the choice has none."""
        chosen = self.chosen(view)
        if not chosen:
            return replace(view, at=None)
        at, turn = selection.draw(chosen, self.order, view.turn)
        return replace(view, at=at, turn=turn)

    def stepped(self, view: View, by: int) -> View:
        """Go to the next (1) or the previous (-1) clip of the choice."""
        chosen = self.chosen(view)
        if not chosen or view.at is None:
            return self.drawn(view)
        return replace(view, at=selection.step(chosen, view.at, by))

    def narrowed(self, view: View, choice: Choice) -> View:
        """Choose otherwise; a clip that the new choice allows stays."""
        view = replace(view, choice=choice)
        return view if view.at in self.chosen(view) else self.drawn(view)

    def jumped(self, view: View, id: str) -> View:
        """Go to a clip by its id, whatever the choice; stay where there is no such clip."""
        return replace(view, at=next((place for place, clip in enumerate(self.index) if clip.id == id), view.at))
