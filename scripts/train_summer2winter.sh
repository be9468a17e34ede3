#!/usr/bin/env bash
# Train summer to winter, as in the paper; arguments go to train.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train summer2winter summer2winter_yosemite AtoB "$@"
