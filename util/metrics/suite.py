"""All measures: importing this registers them; a further file of measures is one more line here."""

from util.metrics import fid, prdc, structure, truth
from util.metrics.measures import MEASURES, find_measures, of_kind

__all__ = ["MEASURES", "fid", "find_measures", "of_kind", "prdc", "structure", "truth"]
