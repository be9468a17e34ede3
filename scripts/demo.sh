#!/usr/bin/env bash
# The whole way on a toy data set with known truth: draw it, train, translate, measure. Arguments go to train.py.
#
#   bash scripts/demo.sh              the same command again goes on where it stopped, or shows the results
#   SEED=1 bash scripts/demo.sh       another seed, as a run of its own
bash "$(dirname "${BASH_SOURCE[0]}")/setup.sh" || exit
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seed=${SEED:-0}
name=toy_seed$seed
settings=(
    --load_size 70 --crop_size 64 --batch_size 4 --n_epochs 10 --n_epochs_decay 10 --lr 0.0005
    --netG resnet_4blocks --ngf 24 --netD n_layers --n_layers_D 2 --ndf 32
    --vgg_weights random --num_patches 64
    --num_threads 0 --cache ram --print_freq 200 --display_id 0
)

data=datasets/toy
[[ -d $data ]] || $python scripts/make_toy_dataset.py --out $data
$python train.py --dataroot $data --name "$name" --seed "$seed" "${settings[@]}" "$@"
pick "name checkpoints_dir gpu_ids" "$@"
$python test.py --name "$name" "${picked[@]}"

name=$(value name "$name" "$@")
checkpoints=$(value checkpoints_dir checkpoints "$@")
echo
echo "training:  $checkpoints/$name/web/index.html"
echo "results:   results/$name/test_latest/index.html"
$python scripts/evaluate.py --name "$name" --checkpoints_dir "$checkpoints"
