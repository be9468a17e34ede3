#!/usr/bin/env bash
# Train every method on the toy set, or the methods named, and write the table and the page that compare them.
#
#   bash scripts/compare_on_toy.sh                   some 35 minutes on two CPU cores; again: goes on, or shows results
#   bash scripts/compare_on_toy.sh cut cycle_gan
bash "$(dirname "${BASH_SOURCE[0]}")/setup.sh" || exit
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

common=(--num_threads 0 --print_freq 200 --update_html_freq 400 --display_id 0)
nets=(--netG resnet_4blocks --ngf 16 --netD n_layers --n_layers_D 2 --ndf 32 --lr 0.0005 --ema 0.99)
epochs=(--n_epochs 5 --n_epochs_decay 5)
small=(--load_size 72 --crop_size 64 --cache ram)
vgg=(--preset paper --vgg_weights random --attn_layers "0,2,4" --num_patches 128 --lambda_GNN 1)
patches=(--num_patches 128 --nce_layers "0,4,8,12,14" --lambda_NCE 4)
crops=("${nets[@]}" "${epochs[@]}" --batch_size 1 --crops_per_epoch 200 --lambda_R1 0.01)
common_game=(--gan_mode lsgan --beta1 0.5 --beta2 0.999)
shared=("${small[@]}" "${nets[@]}" "${epochs[@]}")

# flags METHOD: the kind of toy set and the flags of train.py, into `kind` and `flags`.
flags() {
    kind=unpaired
    case $1 in
        patchgcl) flags=("${shared[@]}" "${vgg[@]}") ;;
        cut) flags=(--model cut --preset shared "${shared[@]}" "${patches[@]}") ;;
        fastcut) flags=(--model cut --preset fastcut "${shared[@]}" "${patches[@]}") ;;
        cycle_gan) flags=(--model cycle_gan --preset shared "${shared[@]}") ;;
        pix2pix) kind=aligned flags=(--model pix2pix --preset shared "${shared[@]}") ;;
        sincut) kind=single flags=(--model sincut --preset shared "${crops[@]}" "${patches[@]}" --lambda_NCE 1) ;;
        sinpatchgcl) kind=single flags=(--model sinpatchgcl "${crops[@]}" "${vgg[@]}" "${common_game[@]}") ;;
        *)
            echo "error: $1 is no method of this table: patchgcl cut fastcut cycle_gan pix2pix sincut sinpatchgcl" >&2
            exit 2
            ;;
    esac
}

draw() { # the toy set of a kind, once
    local scene=(--size 64)
    [[ $1 != single ]] || scene=(--size 128 --seed 22) # two images with the same ground: only the coat is to change
    [[ -d datasets/toy_$1 ]] || $python scripts/make_toy_dataset.py --out "datasets/toy_$1" --kind "$1" "${scene[@]}"
}

(($#)) || set -- patchgcl cut fastcut cycle_gan pix2pix sincut sinpatchgcl
for method; do
    flags "$method"
    draw "$kind"
    run=compare_$method
    $python train.py --dataroot "datasets/toy_$kind" --name "$run" "${common[@]}" "${flags[@]}"
    $python test.py --name "$run" --phase test
    $python scripts/evaluate.py --name "$run"
done
