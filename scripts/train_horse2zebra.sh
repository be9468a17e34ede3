#!/usr/bin/env bash
# Train horses to zebras, as in the paper; arguments go to train.py.
#
#   DATAROOT=FOLDER bash scripts/train_horse2zebra.sh    with the data at another place
#   python train.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train horse2zebra horse2zebra AtoB "$@"
