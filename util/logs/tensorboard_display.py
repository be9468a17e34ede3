"""The TensorBoard sink: losses, pictures and options as event files in the run's folder."""

import math
from collections.abc import Sequence
from pathlib import Path

from util.errors import UserError
from util.logs.log_files import numbers_of
from util.logs.sink import Frame, RecordFrom


class TensorBoardDisplay:
    """Event files in RUN/tensorboard: scalars under the names of the losses, over images seen, and kept pictures.

    A resumed run writes into the same folder and marks where it goes on; TensorBoard then hides what was logged beyond.
    """

    name = "TensorBoard"
    live = False

    def __init__(self, run_dir: Path, record: RecordFrom) -> None:
        """`record`: what trains the run. Nothing is written yet.

        Raises UserError where the package is missing, before anything is trained.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"--use_tensorboard: {error}; pip install tensorboard, or leave the flag out"
            ) from None
        self.make_writer = SummaryWriter
        self.run_dir, self.folder = run_dir, run_dir / "tensorboard"
        self.record = record

    def start(self, records: Sequence[dict], images_done: int) -> str:
        """Open a new event file; earlier losses are written where TensorBoard was off until now."""
        known = any(self.folder.glob("events.*"))
        self.writer = self.make_writer(str(self.folder), purge_step=images_done + 1)

        for title, text in describe(self.record(images_done)).items():
            self.writer.add_text(title, text, images_done)
        self.losses([] if known else records)

        return f"TensorBoard: tensorboard --logdir {self.run_dir.parent}"

    def losses(self, records: Sequence[dict]) -> None:
        """Write the points; a loss that is not finite becomes NaN, which TensorBoard marks."""
        for record in records:
            for name, value in numbers_of(record).items():
                number = math.nan if value is None else value
                self.writer.add_scalar(name, number, record["images"])
        self.writer.flush()

    def pictures(self, frame: Frame) -> None:
        """Write the pictures of a frame that is to be kept."""
        if not frame.save:
            return

        for label, picture in frame.pictures.items():
            self.writer.add_image(label, picture, frame.images, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()


def describe(record: dict) -> dict[str, str]:
    """What makes the run, as Markdown by title."""
    texts = {"recipe": record["recipe"]}
    for title in ("options", "versions"):
        rows = [f"| {name} | `{value}` |\n" for name, value in record[title].items()]
        texts[title] = "| | |\n|---|---|\n" + "".join(rows)
    return texts
