#!/usr/bin/env bash
# Translate all test images (label maps to street scenes; A is the photo) and measure FID and KID; arguments go to test.py.
#
#   DATAROOT=FOLDER bash scripts/test_label2cityscape.sh    with the data at another place
#   python test.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate label2cityscape cityscapes BtoA "$@"
