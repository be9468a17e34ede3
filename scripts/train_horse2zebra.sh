#!/usr/bin/env bash
# Train horses to zebras, as in the paper; arguments go to train.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train horse2zebra horse2zebra AtoB "$@"
