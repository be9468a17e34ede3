#!/usr/bin/env bash
# Translate all test images (label maps to street scenes; A is the photo) and measure FID and KID; arguments go to test.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate label2cityscape cityscapes BtoA "$@"
