#!/usr/bin/env bash
# Train label maps to street scenes (A is the photo), as in the paper; arguments go to train.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train label2cityscape cityscapes BtoA "$@"
