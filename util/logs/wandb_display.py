"""The Weights & Biases sink: losses, kept pictures and options in one W&B run per training run."""

import importlib
import math
import secrets
from collections.abc import Sequence
from pathlib import Path

from util.errors import UserError
from util.files import atomic_path
from util.logs.log_files import numbers_of
from util.logs.sink import Frame, RecordFrom

CONNECT_SECONDS = 30.0


class WandbDisplay:
    """Scalars under the names of the losses, over images seen. The run's id is kept in RUN/wandb_id.txt.

    A resumed run goes on in the same W&B run. W&B cannot take points back: what a killed run had logged beyond its last
    save stays, beside what comes in its place. WANDB_MODE=offline writes to RUN/wandb, for `wandb sync`.
    """

    name = "W&B"
    live = False

    def __init__(self, project: str, run: str, run_dir: Path, record: RecordFrom) -> None:
        """`record`: what trains the run. Nothing connects yet.

        Raises UserError where the package is missing, before anything is trained.
        """
        try:
            self.wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(
                f"--use_wandb: {error}; pip install wandb, or leave the flag out"
            ) from None

        # a folder of that name, such as W&B leaves behind, passes for a package
        if not hasattr(self.wandb, "init"):
            raise UserError(
                "--use_wandb: the package is not installed; "
                "pip install wandb, or leave the flag out"
            )

        self.project, self.run_name, self.run_dir = project, run, run_dir
        self.record = record

    def start(self, records: Sequence[dict], images_done: int) -> str:
        """Begin or resume the W&B run; without a server or a key it raises, and never asks on the terminal.

        Earlier losses are sent where W&B was off until now.
        """
        quiet = {"silent": True, "console": "off"}
        self.wandb.setup(self.wandb.Settings(**quiet))

        id_file = self.run_dir / "wandb_id.txt"
        known = id_file.exists()
        if not known:
            with atomic_path(id_file) as temporary:
                temporary.write_text(secrets.token_hex(4) + "\n")

        record = self.record(images_done)
        options = record.pop("options")
        self.run = self.wandb.init(
            project=self.project, name=self.run_name, id=id_file.read_text().strip(), resume="allow",
            dir=str(self.run_dir), config=options | record, allow_val_change=True,
            settings=self.wandb.Settings(**quiet, init_timeout=CONNECT_SECONDS),
        )  # fmt: skip
        self.run.define_metric("images")
        self.run.define_metric("*", step_metric="images")
        self.losses([] if known else records)

        if self.run.url:
            return f"W&B: {self.run.url}"
        return f"W&B: offline, in {Path(self.run.dir).parent}; wandb sync sends it"

    def losses(self, records: Sequence[dict]) -> None:
        """Log the points; a loss that is not finite becomes NaN."""
        for record in records:
            values = {"images": record["images"]}
            for name, value in numbers_of(record).items():
                values[name] = math.nan if value is None else value
            self.run.log(values)

    def pictures(self, frame: Frame) -> None:
        """Log the pictures of a frame that is to be kept."""
        if not frame.save:
            return

        values = {"images": frame.images}
        for label, picture in frame.pictures.items():
            values[label] = self.wandb.Image(picture)
        self.run.log(values)

    def close(self) -> None:
        """Send what waits."""
        self.run.finish()
