"""The terminal: a progress bar with losses and the time that is left, or a line per print."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm


class Console:
    """The terminal: a progress bar where there is one, else a line per print with the time that is left."""

    name = "console"

    def __init__(self, total_images: int) -> None:
        self.total = total_images
        self.bar: tqdm | None = None

    def start(self, images_done: int) -> None:
        """Show the bar, if standard error is a terminal."""
        self.first = self.images = images_done
        self.started = time.monotonic()

        if sys.stderr.isatty():
            self.bar = tqdm(
                total=self.total,
                initial=images_done,
                unit="img",
                dynamic_ncols=True,
                mininterval=0.5,
            )

    def advance(self, images: int) -> None:
        """Move the bar."""
        self.images += images
        if self.bar is not None:
            self.bar.update(images)

    def losses(self, line: str, epoch: int, losses: Mapping[str, float]) -> None:
        """Put the losses behind the bar, and print the line where there is no bar or the output goes to a file."""
        if self.bar is not None:
            shown = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            self.bar.set_postfix_str(f"epoch {epoch}, {shown}")

        if self.bar is None or not sys.stdout.isatty():
            self.message(f"{line} [{self._progress()}]")

    def message(self, text: str) -> None:
        """Print a line, above the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()

    def _progress(self) -> str:
        """Return the share done and the time left, from the speed since the start."""
        done = self.images - self.first
        if done == 0 or self.total <= 0:
            return "ETA ?"

        seconds_per_image = (time.monotonic() - self.started) / done
        left = seconds_per_image * max(self.total - self.images, 0)
        return f"{self.images / self.total:.1%}, ETA {tqdm.format_interval(left)}"
