"""Translate images with a trained model: `python test.py --name RUN`; writes a folder of images and a page."""

import sys

from models.inference.translate import translate
from options import TestOptions, parse
from util.errors import exit_status


def main() -> None:
    """Run the command line."""
    translate(parse(TestOptions()))


if __name__ == "__main__":
    sys.exit(exit_status(main))
