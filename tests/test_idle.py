"""Options that change nothing beside others: each rule against steps of training, and what is said of one."""

import pytest
import torch

from options import TestOptions, parse
from tests.helpers import make_dataset, refusal, run_command, train_flags, train_options
from tests.test_models import build, step
from util.run.folder import save_record
from util.run.schedule import POLICIES, create_scheduler

# what was asked for -> what then changes nothing
RULES = {
    "patchgcl --neighbours 4": "--nonzero_th 0.6 --threshold_test ge",
    "patchgcl --num_hop 0 --pooling_num 0": "--nonzero_th 0.6 --threshold_test ge --neighbours 3 --weighted_edges "
    "--adjacency_from features --extra_self_loop false --pool_adjacency induced --pool_hop 2 --down_scale 2 "
    "--pool_shrink 3 --pool_score both --average_levels false",
    "patchgcl --num_hop 0 --pool_hop 0 --pooling_num 1": "--nonzero_th 0.6 --threshold_test ge --neighbours 3 "
    "--weighted_edges --adjacency_from features --extra_self_loop false --pool_adjacency induced --pool_shrink 3",
    "patchgcl --num_hop 1 --pool_hop 0 --pooling_num 2": "--pool_adjacency induced",
    "patchgcl --preset paper --num_hop 0": "--nonzero_th 0.6 --extra_self_loop --pool_adjacency two_hop",
    "patchgcl --gnn_idt false --graph_features vgg": "--average_terms false --nce_layers 0,4",
    "patchgcl --graph_features generator": "--attn_layers 4",
    "patchgcl --lambda_GNN 0": "--attn_layers 4 --netF_nc 8 --num_patches 20 --num_hop 1 --pool_hop 2 --pooling_num 2 "
    "--gnn_bias false --nonzero_th 0.6 --pooling_ratio 2.0 --average_terms false --symmetric_nce false --nce_T 0.5 "
    "--detach_input false",
    "cut --lambda_NCE 0": "--netF_nc 8 --nce_layers 0,4 --nce_T 0.5 --num_patches 20 --nce_idt false "
    "--nce_includes_all_negatives_from_minibatch",
    "cut --lambda_NCE 0 --src --lambda_SRC 1": "--nce_T 0.5 --nce_idt false",
    "cut --netF sample --batch_size 1": "--netF_nc 8 --nce_includes_all_negatives_from_minibatch",
    "cut --src false --nce_weights none": "--HDCE_gamma 3 --lambda_SRC 2",
    "hneg_src --preset horse2zebra --nce_weights none": "--HDCE_gamma 3 --HDCE_gamma_min 2 --step_gamma "
    "--step_gamma_epoch 0 --no_Hneg",
    "hneg_src --preset horse2zebra --no_Hneg": "--HDCE_gamma 3 --HDCE_gamma_min 2 --step_gamma --step_gamma_epoch 0",
    "hneg_src --use_curriculum false": "--HDCE_gamma_min 2 --step_gamma_epoch 0",
    "hneg_src --step_gamma false": "--step_gamma_epoch 0",
    "dclgan --lambda_NCE 0": "--netF_nc 8 --nce_layers 4,8 --nce_T 0.5 --num_patches 20 --nce_idt false --lambda_IDT 3",
    "dclgan --nce_idt false --batch_size 1": "--lambda_IDT 3 --nce_includes_all_negatives_from_minibatch false",
    "distance_gan --use_cycle_loss false": "--lambda_A 3 --lambda_B 3",
    "distance_gan --A_to_B --unnormalized_distances": "--lambda_distance_B 3 --max_items 2",
    "gcgan --lambda_AB 0": "--lambda_gc 3 --identity 3",
    "munit": "--normG batch --normD batch --padG zero --n_layers_D 2 --no_antialias",
    "fsesim --num_patches 0": "--patch_size 2",
    "cut --netG unet_128 --netD pixel --load_size 128 --crop_size 128 --lambda_NCE 0": "--padG zero --no_antialias "
    "--no_antialias_up --stylegan2_G_num_downsampling 2 --stylegan2_size 256 --n_layers_D 2",
    "cut --netG stylegan2 --netD tilestylegan2 --nce_layers 0,2": "--normG batch --normD batch --padG zero "
    "--no_dropout false --no_antialias --no_antialias_up",
    "cut --init_type kaiming": "--init_gain 0.5",
    "cut --preprocess none": "--load_size 64 --crop_size 28",
    "cut --preprocess resize --finetune_resize false": "--crop_size 28",
    "sincut --random_scale_max 1.5": "--load_size 64",
}  # fmt: skip


def trained(root, model: str, *flags: str) -> dict[str, torch.Tensor]:
    """What two steps make of the generators, by parameter."""
    _, _, loader, method = build(root, model, None, *flags)
    method.prepare_once(loader.dataset)
    batches = iter(loader.epoch(1))
    for _ in range(2):
        step(method, next(batches))

    return {
        f"{name}.{key}": value
        for name, net in method.networks.items()
        if name.startswith("G")
        for key, value in net.state_dict().items()
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with images for all these runs."""
    root = tmp_path_factory.mktemp("idle")
    make_dataset(root / "data", count=8)
    return root


@pytest.mark.parametrize("asked", RULES)
def test_what_is_called_idle_changes_no_weight(data, asked):
    model, *flags = asked.split()
    idle = RULES[asked].split()
    opt = train_options(data, *flags, *idle, model=model)
    names = {flag[2:] for flag in idle if flag.startswith("--")}
    assert names <= {option.name for option in opt.idle}
    assert not any(f"{name}=" in opt.recipe for name in names)

    without = trained(data, model, *flags)
    beside = trained(data, model, *flags, *idle)
    assert all(torch.equal(beside[key], value) for key, value in without.items())


def test_such_runs_differ_where_an_option_has_an_effect(data):
    """The comparison above can fail."""
    without = trained(data, "patchgcl", "--neighbours", "4")
    other = trained(data, "patchgcl", "--neighbours", "3")
    assert not all(torch.equal(other[key], value) for key, value in without.items())


@pytest.mark.parametrize("policy", POLICIES)
def test_the_step_of_a_schedule_is_idle_where_no_rate_depends_on_it(data, policy):
    def rates(every: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = create_scheduler(optimizer, policy, 2, 2, every)
        found = []
        for _ in range(4):
            optimizer.step()
            scheduler.step(*([1.0] if policy == "plateau" else []))
            found.append(optimizer.param_groups[0]["lr"])
        return found

    opt = train_options(data, "--lr_policy", policy, "--lr_decay_iters", "2")
    assert (rates(1) == rates(2)) == ("lr_decay_iters" in [option.name for option in opt.idle])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--pool_shrink 4", "--pool_shrink has no effect beside --pooling_num 1"),
        ("--n_layers_D 5", "--n_layers_D has no effect beside --netD basic"),
        ("--lr_decay_iters 3", "--lr_decay_iters has no effect beside --lr_policy linear"),
        ("--eval_metrics fid", "--eval_metrics has no effect beside --eval_freq 0"),
    ],
)
def test_what_waits_for_another_flag_is_refused(tmp_path, flags, told):
    """A run of days without the effect that was asked for is no kindness."""
    assert (
        refusal(train_options, tmp_path, *flags.split()) == f"{told}: leave it out, or change that"
    )


def test_what_was_switched_off_is_told_and_is_no_part_of_the_recipe(tmp_path):
    """As in a sweep over hops, whose other flags are the same for all."""
    flags = train_flags(tmp_path, "--num_hop", "0", "--pooling_num", "0", "--nonzero_th", "0.6")
    said = run_command(["train.py", *flags, "--dry_run"]).stdout
    told = "warning: --nonzero_th has no effect beside --num_hop 0 --pooling_num 0"
    assert said.count(told) == 1
    recipe = next(line for line in said.splitlines() if line.startswith("recipe: "))
    assert "num_hop=0, pooling_num=0" in recipe and "nonzero_th" not in recipe


@pytest.mark.parametrize(
    ("model", "flags", "kept", "left_out"),
    [
        ("cut", "--nce_T 0.5 --lambda_NCE 2", "nce_T=0.5", "netD"),
        ("cut", "--nce_T 0.5 --lambda_NCE 0", "lambda_NCE=0.0", "nce_T"),
        ("munit", "--style_dim 3", "style_dim=3", "netG"),
    ],
)
def test_a_result_has_the_recipe_that_it_was_trained_with(tmp_path, model, flags, kept, left_out):
    opt = train_options(tmp_path, *flags.split(), model=model)
    save_record(opt, {})
    where = ["--dataroot", opt.dataroot, "--name", "run", "--checkpoints_dir", opt.checkpoints_dir]
    recipe = parse(TestOptions(), [*where, "--gpu_ids", "-1"]).recipe
    assert kept in recipe and f"{left_out}=" not in recipe
