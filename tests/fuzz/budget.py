"""How many cases a fuzz tries: a few in the suite; FUZZ_CASES=3000 pytest tests/fuzz tries so many of most kinds."""

import os
import tempfile
from pathlib import Path
from typing import Any

import hypothesis

hypothesis.configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")

CASES = int(os.environ.get("FUZZ_CASES", "20"))


def tries(share: float = 1.0) -> Any:
    """Settings of a test: so large a part of all cases, where a case takes longer than others."""
    return hypothesis.settings(
        max_examples=max(10, int(CASES * share)),
        deadline=None,
        derandomize=CASES < 100,  # the suite tries the same cases each time
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def one_line(error: Exception, *culprits: object) -> None:
    """A user's error is a single line that names one of the culprits."""
    text = str(error)
    assert "\n" not in text and len(text) < 2000, text
    assert any(str(culprit) in text for culprit in culprits), text
