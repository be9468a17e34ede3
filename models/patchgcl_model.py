"""PatchGCL: patch-wise graph contrastive learning for image translation (Jung, Kwon, Ye; AAAI 2024, arXiv 2312.08223).

    L_G = lambda_GAN * L_GAN(G, D) + w * ( L_GNN(G(A), A) + L_GNN(G(B), B) )                                   (eq. 10)

L_GNN contrasts the patch graph of an output with that of its input, layer by layer of a frozen VGG16 and level by
level of top-K pooling. `--preset paper` follows the paper and, where it is silent, the released code; `--preset
official` is the released code with the values of its README. w is lambda_GNN in the former, half of it in the latter.
"""

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.explain import figures as graph_figures
from models.explain.graph_maps import MapHead
from models.losses.graph_nce import judge_levels
from models.networks.adjacency import POOLED
from models.networks.graph import SCORES, SOURCES, GraphHead
from models.networks.passes import translate_and_encode
from models.networks.vgg import LAYER_NAMES, VGG16Features
from models.one_sided import OneSidedModel, check_equal_channels
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import float_list, int_list, natural, positive_int, show_value
from util.run.folder import run_dir, weights_file
from util.run.weights import load_weights


class PatchGCLModel(OneSidedModel):
    """One-sided translation A -> B with generator G, discriminator D and graph head F."""

    PRESETS = {
        "paper": {},
        "official": {
            "pool_hop": 1,
            "threshold_test": "gt",
            "symmetric_nce": True,
            "extra_self_loop": True,
            "pool_adjacency": "two_hop",
            "pool_shrink": 2,
            "pooling_ratio": [1.0, 0.5],
            "average_levels": True,
            "average_terms": True,
        },
        "shared": {},  # the paper's recipe; the common networks and schedule are its own
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method; the defaults are those of --preset paper."""
        net = parser.group("architecture")
        net.add(
            "--attn_layers",
            [4, 7, 9],
            "VGG16 layers with graphs; 4,7,9: relu3_1, relu4_1, relu4_3 (release)",
            type=int_list,
        )
        net.add("--graph_features", "vgg", "what graphs are made of", choices=("vgg", "generator"))
        net.add(
            "--nce_layers",
            [0, 4, 8, 12, 16],
            "layers of G, for --graph_features generator",
            type=int_list,
        )
        net.add("--netF_nc", 256, "width of a graph node", type=positive_int)
        net.add(
            "--num_hop",
            2,
            "hops L of the graph convolution (eq. 2); 0: plain patch-wise contrast",
            type=natural,
        )
        net.add(
            "--pool_hop",
            None,
            "hops on pooled graphs (eqs 7, 8); default: as num_hop; release: 1",
            type=natural,
        )
        net.add("--pooling_num", 1, "pooling levels P (eq. 9)", type=natural)
        net.add("--gnn_bias", True, "bias in the graph convolutions (release; none in eq. 2)")

        PatchGCLModel.add_loss_options(parser.group("patchgcl"))
        if not is_train:
            PatchGCLModel.add_picture_options(parser.group("graph pictures"))
        return parser

    @staticmethod
    def add_picture_options(group) -> None:
        """Flags of test.py for what the graph head learned (docs/graph_pictures.md)."""
        group.add(
            "--show_graph",
            False,
            "show pooling scores, kept patches, graph spectrum and one patch's neighbours",
        )
        group.add(
            "--save_graph", False, "write the numbers behind these pictures, arrays/<image>.npz"
        )
        group.add(
            "--graph_query",
            [0.5, 0.5],
            "x,y of the patch whose neighbours are shown: fractions of the image, or pixels where one is above 1",
            type=float_list,
        )
        group.add(
            "--graph_nodes",
            4096,
            "thin larger feature maps to at most so many patches",
            type=positive_int,
        )
        group.add(
            "--graph_clusters",
            5,
            "eigenvectors and clusters of the spectrum, 2 to 20",
            type=positive_int,
        )

    @staticmethod
    def add_loss_options(group) -> None:
        """Flags that shape no network."""
        group.add("--lambda_GAN", 1.0, "weight of the adversarial loss")
        group.add(
            "--lambda_GNN",
            0.1,
            "weight lambda_g of the graph contrastive loss (eq. 10; 0.1 in the README)",
        )
        group.add("--gnn_idt", True, "contrast G(B) with B too (eq. 10, second term)")
        group.add(
            "--num_patches",
            256,
            "patches sampled per image and layer: the nodes of a graph",
            type=positive_int,
        )
        group.add(
            "--nonzero_th",
            0.1,
            "cosine similarity t that makes an edge (eq. 1; 0.1 is best in table 2)",
        )
        group.add(
            "--neighbours",
            0,
            "edges to the K most similar patches instead of a threshold; 0: off",
            type=natural,
        )
        group.add("--weighted_edges", False, "an edge weighs its cosine instead of 1")
        group.add(
            "--threshold_test",
            "ge",
            "an edge is cos >= t (eq. 1) or cos > t (release)",
            choices=("ge", "gt"),
        )
        group.add(
            "--adjacency_from",
            "embedding",
            "similarity of h (fig. 10, release) or of VGG features (eq. 1)",
            choices=SOURCES,
        )
        group.add("--extra_self_loop", False, "self loops of weight 2 (release) instead of 1")
        group.add(
            "--down_scale", 4, "the first pooling keeps 1 of this many nodes", type=positive_int
        )
        group.add(
            "--pool_shrink",
            4,
            "each further pooling keeps 1 of this many; release: 2",
            type=positive_int,
        )
        group.add(
            "--pool_adjacency",
            "induced",
            "pooled edges: those left (paper) or two hops (release)",
            choices=tuple(POOLED),
        )
        group.add(
            "--pool_score",
            "input",
            "output nodes weighted by input scores (eqs 5, 6; release) or own (eqs 12, 13)",
            choices=SCORES,
        )
        group.add(
            "--pooling_ratio",
            [1.0],
            "weight of each level, the last repeated (eq. 9: all 1; README: 1,0.5)",
            type=float_list,
        )
        group.add("--average_levels", False, "divide the sum over levels by their number (release)")
        group.add(
            "--average_terms", False, "halve the sum of translation and identity term (release)"
        )
        group.add(
            "--symmetric_nce", False, "add the loss with input and output exchanged (release)"
        )
        group.add("--nce_T", 0.07, "temperature of InfoNCE (release; none in eqs 4, 9: give 1)")
        group.add(
            "--detach_input",
            True,
            "no gradient through the input's nodes (release; the paper is silent)",
        )
        group.add(
            "--vgg_weights",
            "imagenet",
            "of the frozen VGG16: imagenet, random (demos, tests) or a file",
        )
        group.add(
            "--init_F",
            None,
            "first weights of the graph head, such as a released <epoch>_net_F.pth",
        )
        group.add("--CUT_mode", "CUT", "no effect; the released test command passes it")

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """The identity term needs B to be a possible input."""
        if opt.is_train and opt.gnn_idt:
            check_equal_channels(opt, "--gnn_idt needs", "give --gnn_idt false")
        if opt.nce_T <= 0:
            raise UserError(f"--nce_T {opt.nce_T}: a temperature is positive (1 for none)")
        if not opt.is_train and (opt.show_graph or opt.save_graph):
            PatchGCLModel.check_picture_options(opt)

    @staticmethod
    def check_picture_options(opt: Namespace) -> None:
        """Flags of --show_graph and --save_graph."""
        if len(opt.graph_query) != 2 or min(opt.graph_query) < 0:
            raise UserError(
                f"--graph_query {show_value(opt.graph_query)}: expected x,y, such as 0.5,0.5 or 120,80"
            )
        if not 2 <= opt.graph_clusters <= 20:
            raise UserError(f"--graph_clusters {opt.graph_clusters}: expected 2 to 20")
        if opt.show_graph:
            graph_figures.require_matplotlib()

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime, identity=opt.gnn_idt)
        self.explains = not self.is_train and (opt.show_graph or opt.save_graph)
        if self.explains:
            self.check_head_is_there()

        if self.is_train or self.explains:
            if opt.graph_features == "vgg":
                self.vgg = runtime.place(VGG16Features(opt.attn_layers, opt.vgg_weights))
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
            raise UserError(
                f"{flag} needs the graph head of the training run: {path} does not exist"
            )

    def describe(self) -> str:
        """The networks, and whether VGG16 knows anything."""
        if not self.is_train or self.opt.graph_features == "generator":
            return super().describe()
        layers = ", ".join(LAYER_NAMES[i] for i in self.opt.attn_layers)
        warning = (
            " (untrained: for demos and tests only)" if self.opt.vgg_weights == "random" else ""
        )
        return f"{super().describe()}\nVGG16: frozen, {self.opt.vgg_weights} weights{warning}, {layers}"

    def new_head(self) -> GraphHead:
        """The graph head as the options describe it."""
        opt = self.opt
        from_vgg = opt.graph_features == "vgg"
        channels = self.vgg.channels if from_vgg else self.netG.feature_channels(opt.nce_layers)
        kind = partial(MapHead, nodes=opt.graph_nodes) if self.explains else GraphHead
        head = kind(
            channels, opt.netF_nc, num_hop=opt.num_hop, pool_hop=opt.pool_hop, pooling_num=opt.pooling_num,
            num_patches=opt.num_patches, down_scale=opt.down_scale, pool_shrink=opt.pool_shrink,
            threshold=opt.nonzero_th, strict=opt.threshold_test == "gt", neighbours=opt.neighbours,
            weighted=opt.weighted_edges, adjacency_from=opt.adjacency_from, extra_loop=opt.extra_self_loop,
            pool_adjacency=opt.pool_adjacency, pool_score=opt.pool_score, detach_input=opt.detach_input,
            bias=opt.gnn_bias,
        )  # fmt: skip
        if opt.init_F and self.is_train:
            load_weights(head, Path(opt.init_F))
        return head

    def generate(self, real: Tensor) -> Tensor:
        """One pass of G, which may give graphs of G's own features too."""
        self.real_features = None
        if self.opt.graph_features == "vgg":
            return self.netG(real)

        fake, self.real_features = translate_and_encode(self.netG, real, self.opt.nce_layers)
        return fake

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D, and keep each output's patch graph that of its input."""
        terms, opt = self.adversarial_terms(), self.opt
        with torch.no_grad():
            feats_in = self.real_features or self.features(self.real)

        weight = opt.lambda_GNN / (self.domains if opt.average_terms else 1)
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
        for name in layers[0][1]:  # means over layers
            self.log(name, torch.stack([notes[name] for _, notes in layers]).mean())
        return torch.stack([loss_B for loss_B, _ in layers]).mean(0)

    def explain(self, pictures: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The graph head's view of an image and its translation, for --show_graph and --save_graph."""
        opt = self.opt
        if not self.explains:
            return {}, {}
        real, fake = pictures["real_A"], pictures["fake_B"]
        height, width = real.shape[1:]
        in_pixels = max(opt.graph_query) > 1
        x, y = (
            v / side if in_pixels else v
            for v, side in zip(opt.graph_query, (width, height), strict=True)
        )
        if max(x, y) > 1:
            raise UserError(
                f"--graph_query {show_value(opt.graph_query)} lies outside an image {width} x {height}"
            )
        layers = self.netF.maps(
            self.features(fake[None]), self.features(real[None]), (x, y), opt.graph_clusters
        )
        from_vgg = opt.graph_features == "vgg"
        names = (
            [LAYER_NAMES[i] for i in opt.attn_layers]
            if from_vgg
            else [f"G_{i}" for i in opt.nce_layers]
        )
        figures = graph_figures.draw_figures(names, layers, real, fake) if opt.show_graph else {}
        return figures, graph_figures.to_arrays(names, layers, real) if opt.save_graph else {}
