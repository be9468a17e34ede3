#!/usr/bin/env bash
# Train label maps to street scenes (A is the photo), as in the paper; arguments go to train.py.
#
#   DATAROOT=FOLDER bash scripts/train_label2cityscape.sh    with the data at another place
#   python train.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train label2cityscape cityscapes BtoA "$@"
