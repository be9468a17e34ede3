"""What figures must be read against: the names of the floors in an evaluation's JSON, and what tables call them."""

DO_NOTHING = "inputs"  # the inputs in place of the outputs
REAL = "real"  # real pictures in place of the outputs
UNRELATED = "unrelated"  # each output beside the input of another one

WORDS = {DO_NOTHING: "doing nothing", REAL: "real pictures", UNRELATED: "unrelated pictures"}
