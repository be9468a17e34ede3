#!/usr/bin/env bash
# Translate all test images (horses to zebras) and measure FID and KID; arguments go to test.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate horse2zebra horse2zebra AtoB "$@"
