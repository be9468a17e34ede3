#!/usr/bin/env bash
# Translate all test images (apples to oranges) and measure FID and KID; arguments go to test.py.
#
#   DATAROOT=FOLDER bash scripts/test_apple2orange.sh    with the data at another place
#   python test.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate apple2orange apple2orange AtoB "$@"
