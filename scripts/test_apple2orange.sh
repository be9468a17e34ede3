#!/usr/bin/env bash
# Translate all test images (apples to oranges) and measure FID and KID; arguments go to test.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate apple2orange apple2orange AtoB "$@"
