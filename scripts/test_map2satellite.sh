#!/usr/bin/env bash
# Translate all test images (maps to aerial photographs; A is the photograph) and measure FID and KID; arguments go to
# test.py. The files have 600 pixels; as in training, and in the paper, they are translated at 256.
#
#   DATAROOT=FOLDER bash scripts/test_map2satellite.sh    with the data at another place
#   python test.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate map2satellite maps BtoA "$@"
