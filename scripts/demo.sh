#!/usr/bin/env bash
# The whole way on a toy data set with known truth: draw it, train, translate, measure. Arguments go to train.py.
#
#   bash scripts/demo.sh              the same command again goes on where it stopped, or shows the results
#   SEED=1 bash scripts/demo.sh       another seed, as a run of its own
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
set_up

seed=${SEED:-0}
name=toy_seed$seed
settings=( # small networks, and features of shallow layers, since those of an untrained VGG16 carry colour and edges
    --load_size 72 --crop_size 64 --num_threads 0 --cache ram
    --netG resnet_4blocks --ngf 16 --netD n_layers --n_layers_D 2 --ndf 32
    --preset paper --vgg_weights random --attn_layers "0,2,4" --num_patches 128 --lambda_GNN 1
    --n_epochs 5 --n_epochs_decay 5 --lr 0.0005 --ema 0.99
    --print_freq 200 --update_html_freq 400 --display_id 0
    --amp off # the same picture on every CPU
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
pick "gpu_ids" "$@"
$python scripts/evaluate.py --name "$name" --checkpoints_dir "$checkpoints" "${picked[@]}"
