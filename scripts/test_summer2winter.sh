#!/usr/bin/env bash
# Translate all test images (summer to winter) and measure FID and KID; arguments go to test.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate summer2winter summer2winter_yosemite AtoB "$@"
