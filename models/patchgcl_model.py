"""PatchGCL: patch-wise graph contrastive learning for image translation (Jung, Kwon, Ye; AAAI 2024, arXiv 2312.08223).

    L_G = lambda_GAN * L_GAN(G, D) + w * ( L_GNN(G(A), A) + L_GNN(G(B), B) )                                   (eq. 10)

L_GNN contrasts the patch graph of an output with that of its input, layer by layer of a frozen VGG16 and level by
level of top-K pooling. `--preset official`, the default, is the released code with the values of its README, where w
is half of lambda_GNN. `--preset paper` follows the paper and, where it is silent, the release; there w is lambda_GNN.
"""

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.base_dataset import BaseDataset
from models.explain.graph_maps import MapHead
from models.explain.patch_graph import add_picture_options, check_picture_options, explain_graphs
from models.idle import Idle
from models.losses.graph_nce import judge_levels
from models.networks.adjacency import POOLED
from models.networks.graph import SCORES, SOURCES, GraphHead
from models.networks.passes import translate_and_encode
from models.networks.vgg import LAYER_NAMES, VGG16Features, describe_frozen
from models.one_sided import OneSidedModel, check_equal_channels, check_weights
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import float_list, int_list, natural, positive_float, positive_int
from util.run.folder import run_dir, weights_file
from util.run.weights import load_weights

# The literal reading. At equal lambda its contrast pulls at G 2.1 to 2.4 times as hard as the release's (measured on
# real photographs), so lambda is halved until a sweep says better.
PAPER = {
    "lambda_GNN": 0.05,
    "pool_hop": None,
    "threshold_test": "ge",
    "symmetric_nce": False,
    "extra_self_loop": False,
    "pool_adjacency": "induced",
    "pool_shrink": 4,
    "pooling_ratio": [1.0],
    "average_levels": False,
    "average_terms": False,
}

# options of edges, of pooling and of all graphs: without these they change nothing
OF_EDGES = (
    *("nonzero_th", "threshold_test", "neighbours", "weighted_edges"),
    *("adjacency_from", "extra_self_loop", "pool_adjacency"),
)
OF_POOLING = (
    *("pool_hop", "down_scale", "pool_shrink"),
    *("pool_adjacency", "pool_score", "average_levels"),
)
OF_GRAPHS = (
    *("attn_layers", "netF_nc", "num_patches", "init_F"),
    *("num_hop", "pooling_num", "gnn_bias", *OF_EDGES, *OF_POOLING),
    *("pooling_ratio", "average_terms", "symmetric_nce", "nce_T", "detach_input"),
)

LEVELS = 32  # of pooling at most: halving even 2^32 patches ends there


class PatchGCLModel(OneSidedModel):
    """One-sided translation A -> B with generator G, discriminator D and graph head F."""

    FIRST_WEIGHTS = ("init_F",)
    LOSSES = ("lambda_GAN", "lambda_GNN")  # weights of G's losses, one of which is positive
    PRESETS = {
        "official": {},
        "paper": PAPER,
        "shared": {},  # the release's recipe; the common networks and schedule are its own
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method; the defaults are those of --preset official."""
        net = parser.group("architecture")
        text = "VGG16 layers with graphs; 4,7,9: relu3_1, relu4_1, relu4_3 (release)"
        net.add("--attn_layers", [4, 7, 9], text, int_list)
        net.add("--graph_features", "vgg", "what graphs are made of", choices=("vgg", "generator"))
        text = "layers of G, for --graph_features generator"
        net.add("--nce_layers", [0, 4, 8, 12, 16], text, int_list)

        net.add("--netF_nc", 256, "width of a graph node", positive_int)
        text = "hops L of the graph convolution (eq. 2); 0: plain patch-wise contrast"
        net.add("--num_hop", 2, text, natural)
        text = "hops on pooled graphs (eqs 7, 8): 1 in the release, as num_hop in the paper"
        net.add("--pool_hop", 1, text, natural)
        net.add("--pooling_num", 1, "pooling levels P (eq. 9)", natural)
        net.add("--gnn_bias", True, "bias in the graph convolutions (release; none in eq. 2)")

        group = parser.group("patchgcl")
        PatchGCLModel.add_graph_options(group)
        PatchGCLModel.add_loss_options(group)
        if not is_train:
            add_picture_options(parser.group("graph pictures"))
        return parser

    @staticmethod
    def add_graph_options(group) -> None:
        """Flags that say what the graphs are."""
        text = "patches sampled per image and layer: the nodes of a graph"
        group.add("--num_patches", 256, text, positive_int)
        text = "cosine similarity t that makes an edge (eq. 1; 0.1 is best in table 2)"
        group.add("--nonzero_th", 0.1, text)
        text = "an edge is cos > t (release) or cos >= t (eq. 1)"
        group.add("--threshold_test", "gt", text, choices=("gt", "ge"))
        text = "edges to the K most similar patches instead of a threshold; 0: off"
        group.add("--neighbours", 0, text, natural)
        text = (
            "an edge weighs its cosine instead of 1; in graphs pooled by two_hop it still weighs 1"
        )
        group.add("--weighted_edges", False, text)
        text = "similarity of h (fig. 10, release) or of VGG features (eq. 1)"
        group.add("--adjacency_from", "embedding", text, choices=SOURCES)
        group.add("--extra_self_loop", True, "self loops of weight 2 (release) instead of 1")

        # pooling
        text = "the first pooling keeps 1 of this many nodes"
        group.add("--down_scale", 4, text, positive_int)
        text = "each further pooling keeps 1 of this many: 2 in the release, 4 in the paper"
        group.add("--pool_shrink", 2, text, positive_int)
        text = "pooled edges: two hops (release) or those left (paper)"
        group.add("--pool_adjacency", "two_hop", text, choices=tuple(POOLED))
        text = "output nodes weighted by input scores (eqs 5, 6; release) or own (eqs 12, 13)"
        group.add("--pool_score", "input", text, choices=SCORES)

    @staticmethod
    def add_loss_options(group) -> None:
        """Flags that say how graphs are contrasted."""
        group.add("--lambda_GAN", 1.0, "weight of the adversarial loss")
        text = (
            "weight lambda_g of the graph contrastive loss (eq. 10): 0.1 in the README; 0.05 with "
            "--preset paper, whose gradient is 2.1 to 2.4 times as large at equal weight"
        )
        group.add("--lambda_GNN", 0.1, text)
        group.add("--gnn_idt", True, "contrast G(B) with B too (eq. 10, second term)")

        text = "weight of each level, the last repeated (README: 1,0.5; eq. 9: all 1)"
        group.add("--pooling_ratio", [1.0, 0.5], text, float_list)
        text = "divide the sum over levels by their number (release)"
        group.add("--average_levels", True, text)
        text = "halve the sum of translation and identity term (release)"
        group.add("--average_terms", True, text)

        text = "add the loss with input and output exchanged (release)"
        group.add("--symmetric_nce", True, text)
        text = "temperature of InfoNCE (release; none in eqs 4, 9: 1)"
        group.add("--nce_T", 0.07, text, positive_float)
        text = "no gradient through the input's nodes (release; fig. 10: h learns from the output)"
        group.add("--detach_input", True, text)

        text = "of the frozen VGG16: imagenet, random (demos, tests) or a file"
        group.add("--vgg_weights", "imagenet", text)
        text = (
            "first weights of the graph head, such as a released <epoch>_net_F.pth; "
            "with --pretrained_name in the place of that run's"
        )
        group.add("--init_F", None, text)
        group.add("--CUT_mode", "CUT", "no effect; the released test command passes it")

    @classmethod
    def check_options(cls, opt: Namespace) -> None:
        """Flags that make no sense, alone or together."""
        if opt.pooling_num > LEVELS:
            raise UserError(
                f"--pooling_num {opt.pooling_num}: a graph of {opt.num_patches} patches has no more than one node left "
                f"long before; give at most {LEVELS}"
            )
        if abs(opt.nonzero_th) > 1:
            raise UserError(f"--nonzero_th {opt.nonzero_th}: a cosine lies between -1 and 1")

        if opt.is_train:
            cls.check_training(opt)
        elif opt.show_graph or opt.save_graph:
            check_picture_options(opt)

    @classmethod
    def check_training(cls, opt: Namespace) -> None:
        """Raise UserError where G cannot read what it must, or nothing is left to learn from."""
        if opt.graph_features == "generator":
            why = "--graph_features generator reads G's output with G, which takes"
            check_equal_channels(opt, why, "make both 1 or both 3, or give --graph_features vgg")
        if opt.gnn_idt:
            check_equal_channels(opt, "--gnn_idt needs", "give --gnn_idt false")

        check_weights(opt, *cls.LOSSES)
        if opt.num_patches == 1 and opt.lambda_GNN:
            raise UserError(
                "--num_patches 1 leaves a patch nothing to differ from: give more, or --lambda_GNN 0 for a GAN "
                "without graphs"
            )

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """What graphs do not ask for: an ablation that touches nothing else compares equal with equal."""
        found = super().idle(opt)
        of_pooled = "num_hop" if opt.pool_hop is None else "pool_hop"
        pool_hop = getattr(opt, of_pooled)

        # edges
        if opt.neighbours:
            found.append(Idle(("nonzero_th", "threshold_test"), ("neighbours",)))
        if not opt.num_hop and not opt.pooling_num:
            found.append(Idle(OF_EDGES, ("num_hop", "pooling_num")))
        elif not opt.num_hop and not pool_hop:
            found.append(Idle(OF_EDGES, ("num_hop", "pool_hop")))

        # pooling
        if not opt.pooling_num:
            found.append(Idle(OF_POOLING, ("pooling_num",)))
        elif opt.pooling_num == 1:
            found.append(Idle(("pool_shrink",), ("pooling_num",)))
        if not pool_hop:
            found.append(Idle(("pool_adjacency",), (of_pooled,)))

        # features and losses
        unread = "nce_layers" if opt.graph_features == "vgg" else "attn_layers"
        found.append(Idle((unread,), ("graph_features",)))
        if not opt.gnn_idt:
            found.append(Idle(("average_terms",), ("gnn_idt",)))
        if not opt.lambda_GNN:
            found.append(Idle(OF_GRAPHS, ("lambda_GNN",)))
        return found

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime, identity=opt.gnn_idt)
        self.explains = not self.is_train and (opt.show_graph or opt.save_graph)
        if self.explains:
            self.check_head_is_there()

        if self.is_train or self.explains:
            if opt.graph_features == "vgg":
                dtype = runtime.amp_dtype if self.is_train else None
                self.vgg = runtime.place(VGG16Features(opt.attn_layers, opt.vgg_weights, dtype))
            self.netF = self.add_network("F", self.new_head())

        if self.is_train:
            self.add_optimizer("F", self.netF)
            self.players.append("F")
            self.judge = partial(
                judge_levels,
                temperature=opt.nce_T,
                symmetric=opt.symmetric_nce,
                ratio=tuple(opt.pooling_ratio),
                average=opt.average_levels,
            )

    def check_head_is_there(self) -> None:
        """Raise UserError where a picture of the graph is asked for and the run kept no graph head."""
        opt = self.opt
        path = weights_file(run_dir(opt), opt.epoch, "F")
        if not path.is_file():
            flag = "--show_graph" if opt.show_graph else "--save_graph"
            text = f"{flag} needs the graph head of the training run: {path} does not exist"
            raise UserError(text)

    def describe(self) -> str:
        """The networks, and whether VGG16 knows anything."""
        if not self.is_train or self.opt.graph_features == "generator":
            return super().describe()

        vgg = describe_frozen(self.opt.vgg_weights, self.opt.attn_layers)
        return f"{super().describe()}\n{vgg}"

    def new_head(self) -> GraphHead:
        """The graph head as the options describe it."""
        opt = self.opt
        from_vgg = opt.graph_features == "vgg"
        channels = self.vgg.channels if from_vgg else self.netG.feature_channels(opt.nce_layers)

        kind = partial(MapHead, nodes=opt.graph_nodes) if self.explains else GraphHead
        return kind(
            channels, opt.netF_nc, num_hop=opt.num_hop, pool_hop=opt.pool_hop, pooling_num=opt.pooling_num,
            num_patches=opt.num_patches, down_scale=opt.down_scale, pool_shrink=opt.pool_shrink,
            threshold=opt.nonzero_th, strict=opt.threshold_test == "gt", neighbours=opt.neighbours,
            weighted=opt.weighted_edges, adjacency_from=opt.adjacency_from, extra_loop=opt.extra_self_loop,
            pool_adjacency=opt.pool_adjacency, pool_score=opt.pool_score, detach_input=opt.detach_input,
            bias=opt.gnn_bias,
        )  # fmt: skip

    def prepare(self, dataset: BaseDataset) -> None:
        """Give the graph head its first weights, --init_F, whatever other weights the run begins with.

        Raises:
            UserError: the file is missing or of another head, or --continue_train has found a head to go on with.
        """
        opt = self.opt
        if not opt.init_F:
            return

        found = weights_file(run_dir(opt), opt.epoch, "F")
        if opt.continue_train and found.is_file():
            raise UserError(
                f"--init_F {opt.init_F}: --continue_train goes on with the graph head in {found}; leave --init_F out"
            )
        load_weights(self.netF, Path(opt.init_F))

    def generate(self, real: Tensor) -> Tensor:
        """One pass of G, and beside it one of VGG16; or graphs are of G's own features, which the same pass gives."""
        if self.opt.graph_features == "vgg":
            with self.beside_the_rest(), torch.no_grad():
                self.real_features = self.features(real)
            return self.netG(real)

        fake, self.real_features = translate_and_encode(self.netG, real, self.opt.nce_layers)
        return fake

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D, and keep each output's patch graph that of its input."""
        terms, opt = self.adversarial_terms(), self.opt
        weight = opt.lambda_GNN / (self.domains if opt.average_terms else 1)
        with self.beside_the_rest():
            with torch.no_grad():
                feats_in = self.real_features or self.features(self.real)
            losses = weight * self.graph_loss(self.fake, feats_in)
            for name, loss_B in zip(("GNN", "GNN_Y"), losses.chunk(self.domains), strict=False):
                terms[name] = loss_B.mean()
        return terms

    def features(self, images: Tensor) -> list[Tensor]:
        """What graphs are made of: VGG16's features, or with --graph_features generator those of G's own layers."""
        if self.opt.graph_features == "vgg":
            return self.vgg(images)
        return self.netG.encode(images, self.opt.nce_layers)

    def graph_loss(self, output: Tensor, feats_in: list[Tensor]) -> Tensor:
        """L_GNN per image (B,): mean over feature layers of the weighted sum over pooling levels (eq. 9).

        Args:
            output: images (B,C,H,W).
            feats_in: features of their inputs, without gradients.
        """
        layers = self.netF(self.features(output), feats_in, finish=self.judge)
        self.log_notes([notes for _, notes in layers])
        return torch.stack([loss_B for loss_B, _ in layers]).mean(0)

    def log_notes(self, layers: list[dict[str, Tensor]]) -> None:
        """Log what `judge_levels` tells: the density layer by layer, the rest as means over layers."""
        notes_LKB = torch.stack([torch.stack(list(notes.values())) for notes in layers])
        note_LK = notes_LKB.mean(2)
        note_K = note_LK.mean(0)

        for k, name in enumerate(layers[0]):
            if name == "density":
                for density_K, layer in zip(note_LK, self.layer_names(), strict=True):
                    self.log(f"density_{layer}", density_K[k])
            else:
                self.log(name, note_K[k])

    def layer_names(self) -> list[str]:
        """What the feature layers with graphs are called, in order."""
        if self.opt.graph_features == "vgg":
            return [LAYER_NAMES[index] for index in self.opt.attn_layers]
        return [f"G_{index}" for index in self.opt.nce_layers]

    def explain(self, pictures: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The graph head's view of an image and its translation, for --show_graph and --save_graph."""
        if not self.explains:
            return {}, {}

        real, fake = pictures["real_A"], pictures["fake_B"]
        features = self.features(fake[None]), self.features(real[None])
        return explain_graphs(self.netF, self.layer_names(), features, real, fake, self.opt)
