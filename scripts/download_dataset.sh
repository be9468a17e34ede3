#!/usr/bin/env bash
# Download one of the CycleGAN data sets and unpack it into FOLDER/NAME (default: datasets/NAME).
#
#   bash scripts/download_dataset.sh NAME [FOLDER]
#
# An interrupted download is resumed. Where there is no network, put NAME.zip into FOLDER by other means first.
# DATASETS_URL=ADDRESS downloads from ADDRESS/NAME.zip.
set -euo pipefail

names=(
    ae_photos apple2orange cezanne2photo cityscapes facades grumpifycat horse2zebra iphone2dslr_flower maps
    monet2photo summer2winter_yosemite ukiyoe2photo vangogh2photo
)

fail() {
    echo "error: $*" >&2
    exit 1
}

case " $* " in
    *" --help "* | *" -h "*)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        echo "data sets: ${names[*]}"
        exit
        ;;
esac

[[ $# == 1 || $# == 2 ]] || fail "give the name of a data set:" "${names[@]}"
asked=$(basename "${1%/}" .zip | tr '[:upper:]' '[:lower:]') # Horse2Zebra, horse2zebra.zip
case $asked in
    label2cityscape) name=cityscapes ;;
    map2satellite) name=maps ;;
    summer2winter) name=summer2winter_yosemite ;;
    *) name=$asked ;;
esac
[[ " ${names[*]} " == *" $name "* ]] || fail "$1 is not a data set known here; these are:" "${names[@]}"
folder=${2:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/datasets}
target=$folder/$name

count_images() {
    find "$target" -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' \) -printf '%h\n' | sort | uniq -c
}

if [[ -d $target ]]; then
    echo "$target is there already, with this many images:"
    count_images
    exit
fi
if [[ $name == cityscapes ]]; then
    cat >&2 <<END
error: the licence of Cityscapes does not let others pass its images on, so they cannot be downloaded from here.
Register at https://www.cityscapes-dataset.com and get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip. Scale
photos (leftImg8bit) and colour label maps (gtFine, *_color.png) to 256 x 256 and lay them into $target:
the photos of the train split into trainA, their label maps into trainB, those of the val split into testA and testB.
CUT's authors store them as JPEG, which changes FID, and describe the preparation in their repository.
END
    exit 1
fi
python=$(command -v python3 || command -v python) || fail "Python is needed to unpack the data"
mkdir -p "$folder"

# The Berkeley server's certificate has been out of order at times, hence the second address.
addresses=("${DATASETS_URL:-https://efrosgans.eecs.berkeley.edu/cyclegan/datasets}")
[[ -n ${DATASETS_URL:-} ]] || addresses+=("http://efrosgans.eecs.berkeley.edu/cyclegan/datasets")

part=$target.zip.part

# Fetch $1 into $part, going on where it stops; a server that cannot resume (curl 33) sends the whole file again.
fetch() {
    echo "downloading $1"
    if command -v curl >/dev/null; then
        local status=0 options=(--fail --location --progress-bar --connect-timeout 20 --output "$part" "$1")
        curl --continue-at - "${options[@]}" || status=$?
        [[ $status != 33 ]] || { rm "$part" && status=0 && curl "${options[@]}" || status=$?; }
        return "$status"
    fi
    command -v wget >/dev/null || fail "curl or wget is needed to download"
    wget --continue --tries 3 --connect-timeout 20 --output-document "$part" "$1"
}

is_whole() { "$python" -c 'import sys, zipfile; sys.exit(not zipfile.is_zipfile(sys.argv[1]))' "$1"; }

if [[ -f $target.zip ]]; then
    archive=$target.zip
else
    archive=$part
    for address in "${addresses[@]}"; do
        is_whole "$part" || fetch "$address/$name.zip" || true
    done
    [[ -s $part ]] || fail "nothing could be downloaded; without a network, put $name.zip into $folder by other means and run this again"
fi
if ! is_whole "$archive"; then
    fail "$archive is not a whole zip file: run this again to go on with the download; if that does not help, delete it first"
fi

# Unpacked under a temporary name that becomes the final one at the end: what is there is whole.
unpacked=$target.part
rm -rf "$unpacked"
"$python" - "$archive" "$unpacked" <<'END' || fail "$archive was not unpacked; delete it and run this again"
import pathlib, sys, zipfile

archive, folder = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])
for name in archive.namelist():
    path = pathlib.PurePosixPath(name.replace("\\", "/"))
    if not path.parts:  # ./, the folder itself
        continue
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        sys.exit(f"error: {sys.argv[1]} holds {name}, which would leave the folder")
try:
    archive.extractall(folder)
except (OSError, zipfile.BadZipFile) as error:
    sys.exit(f"error: {error}")
END
inside=$unpacked
[[ ! -d $unpacked/$name ]] || inside=$unpacked/$name
[[ -d $inside/trainA && -d $inside/trainB ]] || fail "$archive does not hold trainA and trainB; it was unpacked to $unpacked"
mv "$inside" "$target"
rm -rf "$unpacked" "$part"
echo "$target is ready, with this many images:"
count_images
