#!/usr/bin/env bash
# Train apples to oranges, as in the paper; arguments go to train.py.
#
#   DATAROOT=FOLDER bash scripts/train_apple2orange.sh    with the data at another place
#   python train.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train apple2orange apple2orange AtoB "$@"
