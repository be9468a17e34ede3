#!/usr/bin/env bash
# Translate all test images (maps to aerial photographs; A is the photograph) at 256 pixels, as the paper does, and measure
# FID and KID; arguments go to test.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate map2satellite maps BtoA --preprocess resize --load_size 256 "$@"
