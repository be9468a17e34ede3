#!/usr/bin/env bash
# Install everything into .venv; returns at once when nothing has changed since.
#
#   bash scripts/setup.sh                      what training and translating need
#   bash scripts/setup.sh --dev                also what tests and evaluation need
#   PYTHON=python3.12 bash scripts/setup.sh    with that interpreter
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "error: $*" >&2
    exit 1
}

case "$*" in
    --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    "") requirements=(requirements.txt) ;;
    --dev) requirements=(requirements.txt .ci/requirements.txt) ;;
    *) fail "setup.sh $*: the only option is --dev" ;;
esac

# A link leads to the environment of another checkout, which an installation here would empty.
[[ ! -L .venv ]] || fail ".venv is a link to $(readlink .venv): remove the link, or set up there"

stamp=.venv/setup.stamp # what is installed; "unfinished" while an installation is under way
previous=$(cat $stamp 2>/dev/null || true)
if [[ $previous == *.ci/requirements.txt* ]]; then # once installed, kept
    requirements=(requirements.txt .ci/requirements.txt)
fi

full_version() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null || echo "none"; }

# What a finished installation depends on.
describe_state() {
    pwd -P
    full_version .venv/bin/python
    cksum "${requirements[@]}"
}

wrong_interpreter() { [[ -n ${PYTHON:-} && $(full_version "$PYTHON") != "$(full_version .venv/bin/python)" ]]; }

if [[ $(describe_state) == "$previous" ]] && ! wrong_interpreter; then
    exit 0
fi

make_venv() {
    local python=${PYTHON:-python3} version
    command -v "$python" >/dev/null || fail "$python is not there: install Python 3.11 or newer, or name one with PYTHON=..."
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is Python $version, 3.11 or newer is needed: name one, as in PYTHON=python3.12 bash scripts/setup.sh"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments: install its venv package (Debian: apt install python$version-venv)"
    echo "making .venv with Python $version"
    "$python" -m venv --clear .venv
}

moved() { [[ -n $previous && $previous != "$(pwd -P)"$'\n'* ]]; } # a virtual environment holds its own path
if ! .venv/bin/python -m pip --version >/dev/null 2>&1 || moved || wrong_interpreter; then # moved: also "unfinished"
    make_venv
fi
echo unfinished >$stamp

echo "installing ${requirements[*]} (with CUDA libraries some 3 GB; this takes minutes)"
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install --quiet --upgrade "pip>=25.3" || fail "pip could not be brought to 25.3, which knows --build-constraint"
# visdom comes as source and needs pkg_resources while it builds, which setuptools dropped in 81.
echo "setuptools<81" >.venv/build-constraint.txt
pip install "${requirements[@]/#/--requirement=}" --build-constraint .venv/build-constraint.txt ||
    fail "pip failed, see above; the same command starts afresh"

# A torch that torchvision was not built for installs without complaint and fails when it is used.
.venv/bin/python - <<'END'
from importlib.metadata import version

pair = f"torch {version('torch')}, torchvision {version('torchvision')}"
try:
    import dominate, numpy, PIL, torch, torchvision, tqdm, visdom

    torchvision.ops.nms(torch.eye(4)[:1], torch.ones(1), 0.5)
except Exception as error:
    reason = str(error).splitlines()[0]
    raise SystemExit(f"error: the installation does not work ({reason}) with {pair}; name versions that fit in requirements.txt")
print(f"ready: {pair}, CUDA", torch.version.cuda or "none")
END
describe_state >$stamp
