"""The command line: plain argparse, shared by train.py and test.py; models and data sets add their own flags."""

from options.command_line import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions

__all__ = ["TestOptions", "TrainOptions", "parse"]
