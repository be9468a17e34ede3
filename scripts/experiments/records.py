"""What is kept of a run that is done, without weights and pictures: small enough to publish beside a table."""

import shutil
from pathlib import Path

from scripts.experiments.grid import Grid
from scripts.experiments.job import EPOCHS, RECORD, measured_file, missing
from util.files import atomic_path
from util.logs.log_files import METRICS
from util.run.folder import RECORD as OPTIONS


def copy_records(grid: Grid, to: Path) -> list[str]:
    """Copy the records of all runs that are done; returns their names.

    `to` is then a folder of a grid itself: `--out` takes it, and `--report` makes the same table from it. Where the
    records are put back in another place, the runs count as done there.
    """
    done = [job for job in grid.jobs() if not missing(job)]
    for job in done:
        files = [job.folder / name for name in (RECORD, OPTIONS, METRICS)]
        files += [measured_file(job.folder, column) for column in EPOCHS]
        for file in files:
            if file.is_file():
                with atomic_path(to / file.relative_to(grid.folder)) as temporary:
                    shutil.copyfile(file, temporary)
    return [job.run for job in done]
