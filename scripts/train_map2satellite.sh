#!/usr/bin/env bash
# Train maps to aerial photographs (A is the photograph), as in the paper; arguments go to train.py.
#
#   DATAROOT=FOLDER bash scripts/train_map2satellite.sh    with the data at another place
#   python train.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train map2satellite maps BtoA "$@"
