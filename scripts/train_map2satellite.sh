#!/usr/bin/env bash
# Train maps to aerial photographs (A is the photograph), as in the paper; arguments go to train.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train map2satellite maps BtoA "$@"
