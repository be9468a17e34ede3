#!/usr/bin/env bash
# Translate all test images (horses to zebras) and measure FID and KID; arguments go to test.py.
#
#   DATAROOT=FOLDER bash scripts/test_horse2zebra.sh    with the data at another place
#   python test.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate horse2zebra horse2zebra AtoB "$@"
