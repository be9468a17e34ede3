#!/usr/bin/env bash
# Check the project: style, then all tests; arguments go to pytest, as in: bash scripts/test.sh -k graph
set -euo pipefail
case " $* " in
    *" --help "* | *" -h "*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh --dev
python=.venv/bin/python
$python -m ruff check .
$python -m ruff format --check .
$python -m pytest -n 2 "$@"
