#!/usr/bin/env bash
# Train apples to oranges, as in the paper; arguments go to train.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train apple2orange apple2orange AtoB "$@"
