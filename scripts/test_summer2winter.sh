#!/usr/bin/env bash
# Translate all test images (summer to winter) and measure FID and KID; arguments go to test.py.
#
#   DATAROOT=FOLDER bash scripts/test_summer2winter.sh    with the data at another place
#   python test.py --help    lists the flags that it takes
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
translate summer2winter summer2winter_yosemite AtoB "$@"
