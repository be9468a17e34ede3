#!/usr/bin/env bash
# One content and one style through every method that needs no more, and the page that puts the results side by side.
#
#   bash scripts/compare_single.sh                   all six; again: goes on, or shows results
#   bash scripts/compare_single.sh strotss sincut    some of: sincut sinpatchgcl sinsc sinhneg wct2 strotss
#
# Settings come from the environment:
#   DATAROOT=DIR         trainA with the content, trainB with the style (default: datasets/single_image_monet_etretat)
#   PHOTOS=DIR           photographs from which WCT2's decoder learns (default: datasets/horse2zebra)
#   VGG=FILE             weights of a VGG16, else torchvision's are downloaded; VGG_LAYERS="0,1,..." those for STROTSS
#   STEPS=N MINUTES=N    end a training after so many steps, or minutes (default: the methods' own schedules)
#   SIDE=N               longer side of STROTSS' picture (default 512)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
set_up

# there FOLDER VARIABLE: its absolute path, seen from where the script was called.
there() {
    (cd "$caller" && cd "$1" 2>/dev/null && pwd) || {
        echo "error: $1 is not a folder; give $2=DIR" >&2
        exit 2
    }
}

here=$PWD
data=$(there "${DATAROOT:-$here/datasets/single_image_monet_etretat}" DATAROOT) || exit
weights=${VGG:-}
[[ -z $weights || $weights == /* || ! -e $caller/$weights ]] || weights=$caller/$weights
vgg=(${weights:+--vgg_weights "$weights"})
limits=(${STEPS:+--max_steps "$STEPS"} ${MINUTES:+--max_minutes "$MINUTES"})

# learn METHOD FLAGS: train one method, on the pair unless the flags say otherwise.
learn() {
    $python train.py --dataroot "$data" --model "$1" --name "single_$1" "${limits[@]}" "${@:2}"
    runs+=("single_$1")
}

(($#)) || set -- sincut sinpatchgcl sinsc sinhneg wct2 strotss
runs=() made=()
for method; do
    case $method in
        sincut | sinhneg) learn "$method" ;;
        sinpatchgcl | sinsc) learn "$method" "${vgg[@]}" ;;
        wct2)
            photos=$(there "${PHOTOS:-$here/datasets/horse2zebra}" PHOTOS) || exit
            learn wct2 --dataroot "$photos" "${vgg[@]}"
            ;;
        strotss)
            $python test.py --model strotss --name single_strotss --dataroot "$data" --phase train "${vgg[@]}" \
                ${VGG_LAYERS:+--vgg_layers "$VGG_LAYERS"} ${SIDE:+--long_side "$SIDE"}
            made=(--with results/single_strotss/train_latest)
            ;;
        *)
            echo "error: $method is no method of this page: sincut sinpatchgcl sinsc sinhneg wct2 strotss" >&2
            exit 2
            ;;
    esac
done

if ((${#runs[@]} == 0)); then
    echo "nothing to put beside results/single_strotss/train_latest/index.html: name another method too"
    exit
fi
$python scripts/compare.py --names "${runs[@]}" "${made[@]}" --dataroot "$data" --phase train
