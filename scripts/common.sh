# Shared by the launchers in this folder, which source it; no command of its own.
# shellcheck shell=bash
set -euo pipefail

# --help: what stands at the head of the launcher.
case " $* " in
    *" --help "* | *" -h "*)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit
        ;;
esac

caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

choose_python() {
    python=.venv/bin/python
    [[ -x $python ]] || python=python # an environment of your own, with requirements.txt installed
}
choose_python

# set_up: for launchers that are somebody's first command.
set_up() {
    bash scripts/setup.sh || exit
    choose_python
}

# pick "NAMES" ARGUMENTS: those flags of the arguments, with their values, into the array `picked`.
pick() {
    local names=" $1 " flag
    shift
    picked=()
    while (($#)); do
        flag=${1%%=*}
        if [[ $flag == --* && $names == *" ${flag#--} "* ]]; then
            picked+=("$1")
            if [[ $1 != *=* && $# -gt 1 ]]; then
                picked+=("$2")
                shift
            fi
        fi
        shift
    done
}

# value FLAG DEFAULT ARGUMENTS: print what the arguments give for --FLAG.
value() {
    pick "$1" "${@:3}"
    local last=$2
    ((${#picked[@]} == 0)) || last=${picked[-1]#"--$1="}
    echo "$last"
}

# find_data DATASET: the absolute path of its folder, into `data`; DATAROOT overrides datasets/DATASET.
find_data() {
    data=$(cd "$caller" && cd "${DATAROOT:-$OLDPWD/datasets/$1}" 2>/dev/null && pwd) || {
        echo "error: ${DATAROOT:-datasets/$1} is not a folder; get the data with: bash scripts/download_dataset.sh $1" \
            "(or give DATAROOT=FOLDER, with trainA, trainB, testA and testB in it)" >&2
        exit 2
    }
}

# train RUN DATASET DIRECTION FLAGS: with the preset of the release, the default.
train() {
    find_data "$2"
    $python train.py --dataroot "$data" --name "$1" --direction "$3" "${@:4}"
}

# translate RUN DATASET DIRECTION FLAGS: all test images, then FID and KID at 256 pixels against the real ones of the
# target domain. INCEPTION=FILE takes Inception weights from there, FEATURE=768 makes it FID-768 (see evaluate.py --help).
translate() {
    find_data "$2"
    $python test.py --dataroot "$data" --name "$1" --direction "$3" "${@:4}"

    local phase direction inception=()
    phase=$(value phase test "${@:4}")
    direction=$(value direction "$3" "${@:4}")
    [[ -z ${INCEPTION:-} ]] || inception=(--inception "$(cd "$caller" && realpath -m "$INCEPTION")")
    pick "name checkpoints_dir results_dir phase epoch gpu_ids" "${@:4}"
    $python scripts/evaluate.py --name "$1" --dataroot "$data" --real "$data/$phase${direction#*to}" --resize 256 \
        "${picked[@]}" "${inception[@]}" ${FEATURE:+--feature "$FEATURE"}
}
