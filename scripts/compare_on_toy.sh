#!/usr/bin/env bash
# Train every method on the toy set, or the methods named, and measure what each makes of the test images.
#
#   bash scripts/compare_on_toy.sh                   some four minutes a method on a CPU core; again: goes on, or shows results
#   bash scripts/compare_on_toy.sh cut cycle_gan
#   SEED=1 bash scripts/compare_on_toy.sh cut        another seed, as runs of their own
#   WITH="--n_epochs 15 --n_epochs_decay 15" bash scripts/compare_on_toy.sh cut     further flags, as a run of its own
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
set_up

seed=${SEED:-0}
read -ra further <<<"${WITH:-}"
two_domains=(patchgcl cut fastcut negcut hneg_src fsesim lsesim dclgan simdcl cycle_gan munit drit distance_gan self_distance gcgan)
pairs=(pix2pix)
single_images=(sincut sinhneg sinsc sinpatchgcl)

common=(--seed "$seed" --amp off --num_threads 0 --print_freq 200 --update_html_freq 400 --display_id 0)
nets=(--netG resnet_4blocks --ngf 16 --netD n_layers --n_layers_D 2 --ndf 32 --lr 0.0005 --ema 0.99)
epochs=(--n_epochs 5 --n_epochs_decay 5)
# for methods that have only begun to learn their task when the others end
longer=(--n_epochs 10 --n_epochs_decay 10)
longest=(--n_epochs 20 --n_epochs_decay 20)
small=(--load_size 72 --crop_size 64 --cache ram)
crops=("${nets[@]}" "${epochs[@]}" --batch_size 1 --crops_per_epoch 200)
shared=("${small[@]}" "${nets[@]}" "${epochs[@]}")
own_style=(--style datasets/toy_unpaired/testA_truth --style_by_name) # the ground's colour is style
styled=("${small[@]}" "${epochs[@]}" --ngf 16 --ndf 32 --lr 0.0005 --ema 0.99) # these methods bring their own networks

# what keeps content, weighted for so few steps
vgg=(--vgg_weights random --attn_layers "0,2,4" --num_patches 128)
graphs=(--preset paper "${vgg[@]}" --lambda_GNN 1)
patches=(--num_patches 128 --nce_layers "0,4,8,12,14" --lambda_NCE 4)
both_ways=(--num_patches 128 --nce_layers "4,8,12,14")
common_game=(--gan_mode lsgan --beta1 0.5 --beta2 0.999)

# flags METHOD: the kind of toy set, the flags of train.py and those of test.py, into `kind`, `flags` and `looks`.
flags() {
    kind=unpaired flags=(--model "$1" --preset shared) looks=()
    case $1 in
        patchgcl) flags=("${shared[@]}" "${graphs[@]}") ;;
        cut) flags+=("${shared[@]}" "${patches[@]}") ;;
        fastcut) flags=(--model cut --preset fastcut "${shared[@]}" "${patches[@]}") ;;
        negcut) flags+=("${shared[@]}" "${patches[@]}" --num_negatives 128) ;;
        hneg_src) flags+=("${shared[@]}" "${patches[@]}" --lambda_HDCE 2 --lambda_SRC 0.4) ;;
        fsesim | lsesim) flags+=("${shared[@]}" "${vgg[@]}" --lambda_identity 5) ;;
        dclgan) flags+=("${shared[@]}" "${both_ways[@]}" --lambda_IDT 5) ;;
        simdcl) flags+=("${shared[@]}" "${both_ways[@]}") ;;
        cycle_gan) flags+=("${shared[@]}") ;;
        gcgan) flags+=("${shared[@]}" --identity 3) ;;
        distance_gan | self_distance) flags+=("${shared[@]}" --use_cycle_loss "${longest[@]}") ;;
        drit) flags+=("${styled[@]}" "${longest[@]}") looks=("${own_style[@]}") ;;
        munit) flags+=("${styled[@]}") looks=("${own_style[@]}") ;;
        pix2pix) kind=aligned flags+=("${shared[@]}") ;;
        sincut) kind=single flags+=("${crops[@]}" "${patches[@]}" --lambda_NCE 1 --lambda_R1 0.01) ;;
        sinhneg) kind=single flags+=("${crops[@]}" "${patches[@]}" --lambda_HDCE 1 --lambda_SRC 0.2 --lambda_R1 0.01) ;;
        sinsc) kind=single flags+=("${crops[@]}" "${vgg[@]}" --lambda_identity 5 --lambda_gradient 0.01 "${longer[@]}") ;;
        sinpatchgcl) kind=single flags=(--model "$1" "${crops[@]}" "${graphs[@]}" --lambda_R1 0.01 "${common_game[@]}") ;;
        *)
            echo "error: $1 is no method of this table: ${two_domains[*]} ${pairs[*]} ${single_images[*]}" >&2
            exit 2
            ;;
    esac
}

draw() { # the toy set of a kind, once
    local scene=(--size 64)
    [[ $1 != single ]] || scene=(--size 128 --seed 22) # two images with the same ground: only the coat is to change
    [[ -d datasets/toy_$1 ]] || $python scripts/make_toy_dataset.py --out "datasets/toy_$1" --kind "$1" "${scene[@]}"
}

(($#)) || set -- "${two_domains[@]}" "${pairs[@]}" "${single_images[@]}"
for method; do
    flags "$method"
    draw "$kind"
    run=compare_${method}
    ((${#further[@]} == 0)) || run+=_$(tr -cd '[:alnum:]_.' <<<"$WITH")
    ((seed == 0)) || run+=_seed$seed
    $python train.py --dataroot "datasets/toy_$kind" --name "$run" "${common[@]}" "${flags[@]}" "${further[@]}"
    $python test.py --name "$run" --phase test "${looks[@]}"
    $python scripts/evaluate.py --name "$run"
done
