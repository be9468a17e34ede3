"""Translate images with a trained model: `python test.py --name RUN`; writes a folder of images and a page."""

import sys

from models.inference.translate import translate
from options import TestOptions, parse
from util.errors import exit_status
from util.hardware.launch import start_processes


def main() -> None:
    """Run the command line."""
    opt = parse(TestOptions())
    start_processes(opt.gpu_ids)
    translate(opt)


if __name__ == "__main__":
    sys.exit(exit_status(main))
