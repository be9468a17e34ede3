#!/usr/bin/env bash
# Train summer to winter, as in the paper; arguments go to train.py.
#
#   DATAROOT=FOLDER bash scripts/train_summer2winter.sh    with the data at another place
#   python train.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train summer2winter summer2winter_yosemite AtoB "$@"
