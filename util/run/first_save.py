"""The mark of a run's first save: if weights without a state are all that it leaves, the run knows them for its own."""

from pathlib import Path

from util.files import atomic_path
from util.run.state_file import has_state
from util.run.weights import or_not_saved, remove

NAME = ".first_save"  # in the folder of a run, while its first save is under way
ANEW, FROM_WEIGHTS = "begun anew", "begun with --continue_train"


class FirstSave:
    """What is known of the first save of the run in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME

    def announce(self, from_weights: bool) -> None:
        """Before weights are written to a folder without a state; raises NotSaved.

        Args:
            from_weights: whether the run went on from weights that were there.
        """
        if has_state(self.folder):
            return
        with or_not_saved(f"write {self.path}", self.folder), atomic_path(self.path) as temporary:
            temporary.write_text(FROM_WEIGHTS if from_weights else ANEW, encoding="utf-8")

    def end(self) -> None:
        """After the first state, and every later one; raises NotSaved."""
        remove(self.path)

    def cut_off(self) -> str | None:
        """How the run had begun whose first save was cut off; None where none was."""
        return self.path.read_text(encoding="utf-8") if self.path.is_file() else None
