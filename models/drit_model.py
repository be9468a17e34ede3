"""DRIT++: diverse translation through contents that two domains share and attributes that each has for itself.

Lee et al., IJCV 2020, arXiv 1905.01270; first as DRIT, ECCV 2018, arXiv 1808.00948; mode seeking by Mao et al., CVPR
2019, arXiv 1903.05628. E_c reads a content c, E_a attributes z, as N(mean, variance); G joins them again.

    fake_A = G_A(c_B, z_A)   fake_B = G_B(c_A, z_B)                   attributes of the other image
    rec_A  = G_A(c_A, z_A)   cyc_A  = G_A(c(fake_B), z(fake_A))       both should be A; B likewise
    random_A = G_A(c_B, z_1), G_A(c_B, z_2)   and so on for B         z_1, z_2 ~ N(0, I)

    L_1 = GAN(fake_A, D_A) + GAN(fake_B, D_B) + confusion(c_A) + confusion(c_B)
          + lambda_rec ( |rec_A - A| + |rec_B - B| + |cyc_A - A| + |cyc_B - B| )
          + lambda_kl ( KL(z_A) + KL(z_B) + mean c_A^2 + mean c_B^2 )                 moves E_c, E_a, G
    L_2 = GAN(random_A, D_A2) + GAN(random_B, D_B2), for z_1 and for z_2
          + lambda_latent ( |mean(G_A(c_B, z_1)) - z_1| + |mean(G_B(c_A, z_1)) - z_1| )
          + mode seeking of A and of B                                                moves E_c, G alone
    L_D = sum over sizes of the cross entropies of real images with 1, of translated ones with 0

|.| is the mean absolute difference, mean(x) what E_a reads from x. The judge of contents, D_content, has target 0 for
contents of A and 1 for those of B; confusion is the cross entropy of its scores with 1/2.
"""

from argparse import Namespace

import torch
from torch import Tensor, nn

from models.disentangled import DisentangledModel
from models.inference.styles import OTHER
from models.losses.disentanglement import (
    content_confusion_loss,
    content_discriminator_loss,
    mode_seeking_loss,
    normal_divergence,
)
from models.losses.reconstruction import l1_distance
from models.networks.drit_networks import (
    DritAttributeEncoder,
    DritContentDiscriminator,
    DritContentEncoder,
    DritGenerator,
)
from models.step.training_step import Move
from util.hardware.runtime import Runtime
from util.parser import positive_float, positive_int

METHOD = {"gan_mode": "vanilla", "init_type": "normal", "batch_size": 2}  # of every preset
CLIP_NORM = 5.0  # of the gradient of D_content


class DRITModel(DisentangledModel):
    """Multi-modal translation A <-> B with E_c, E_a, G for both domains, D_A, D_B, D_A2, D_B2 and D_content.

    The images of a batch take turns: the first, third, ... are taken apart and translated; the second, fourth, ... are
    what D_A2 and D_B2 see as real, so that they learn the domain and not these very images.

    In the first step of a cycle all players move, in the others D_content alone. The release takes the gradient of
    L_2 after a step down L_1 through the graph from before, which today's torch refuses; here both gradients are
    taken first, and E_c and G move once down their sum. E_a learns from L_1 alone.
    """

    CYCLE = 3
    SLOPE = 0.01
    PRESETS = {
        "official": {
            **METHOD,
            "lr": 0.0001,
            "n_epochs": 600,
            "n_epochs_decay": 600,
            "max_steps": 1_500_000,  # in a third of which G moves
            "load_size": 256,
            "crop_size": 216,
            "finetune_resize": False,
        },
        "shared": {**METHOD, "n_epochs": 600, "n_epochs_decay": 600},
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method."""
        DRITModel.add_common_options(parser, "drit", is_train)
        group = parser.group("drit")
        text = "weight of images put together again, at once and by a cycle"
        group.add("--lambda_rec", 10.0, text)
        group.add("--lambda_kl", 0.01, "weight that keeps attributes normal and contents small")
        group.add("--lambda_latent", 10.0, "weight of drawn attributes read back from images")

        group.add("--no_ms", False, "no mode seeking: one random translation instead of two")
        text = "steps of a cycle: in all but the first the judge of contents moves alone"
        group.add("--d_iter", DRITModel.CYCLE, text, positive_int)
        text = "learning rate of the judge of contents; default: 0.4 of --lr"
        group.add("--lr_dcontent", None, text, positive_float)
        return parser

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        runtime.keep_graphs()
        channels, width = (opt.input_nc, opt.output_nc), opt.ngf
        contents = self.initialized(DritContentEncoder(channels, width))
        attributes = self.initialized(DritAttributeEncoder(channels, width, opt.style_dim))
        generator = self.initialized(DritGenerator(channels, width, opt.style_dim))
        self.netE_c = self.add_network("E_c", contents, average=True)
        self.netE_a = self.add_network("E_a", attributes, average=True)
        self.netG = self.add_network("G", generator, average=True)
        if not self.is_train:
            return

        self.CYCLE = opt.d_iter
        self.draws = 1 if opt.no_ms else 2
        self.visual_names = ["real_A", "fake_B", "random_B", "rec_A", "cyc_A"]
        self.visual_names += ["real_B", "fake_A", "random_A", "rec_B", "cyc_B"]
        self.add_judges(channels)

        for name in ("E_c", "E_a", "G"):
            self.add_optimizer(name, self.networks[name], weight_decay=opt.weight_decay)

    def add_judges(self, channels: tuple[int, int]) -> None:
        """Discriminators and their optimisers: four of images as one player, that of contents."""
        opt = self.opt
        judges = []
        for name, count in zip(("D_A", "D_B", "D_A2", "D_B2"), channels * 2, strict=True):
            judges.append(self.add_network(name, self.new_multiscale_discriminator(count)))
        self.add_optimizer("D", *judges, weight_decay=opt.weight_decay)

        judge = self.initialized(DritContentDiscriminator(4 * opt.ngf))
        self.netD_content = self.add_network("D_content", judge)
        self.add_optimizer(
            "D_content",
            judge,
            lr=opt.lr_dcontent or 0.4 * opt.lr,
            weight_decay=opt.weight_decay,
            clip_norm=CLIP_NORM,
        )

    def describe(self) -> str:
        """The networks, and whether a batch is cut into parts whose images cannot take turns."""
        opt, lines = self.opt, [super().describe()]
        processes = self.runtime.world_size
        images = opt.batch_size // processes
        if self.is_train and images % 2 and (processes > 1 or opt.accumulate > 1):
            even = processes * (images + 1)
            lines.append(
                "note: of each part of a batch every second image is translated and the others are judged, "
                f"but a part has {images}; --batch_size {even} gives each an even number"
            )
        return "\n".join(lines)

    def load(self, batch: dict[str, Tensor]) -> None:
        """Every second image is translated, the others are looked at; a single image is both."""
        self.inputs, self.others = {}, {}
        for role in ("A", "B"):
            images = batch[role]
            self.inputs[role] = images[::2]
            self.others[role] = images[1::2] if len(images) > 1 else images

    def forward(self) -> None:
        """All translations; where D_content moves alone only contents: pictures stay as they were."""
        if self.turn > 0:
            with torch.no_grad():
                self.read_contents()
        else:
            self.read_contents()
            self.translate_both()
            self.translate_at_random()

    def read_contents(self) -> None:
        """Contents (B,C,h,w) of the images that are translated, with noise."""
        self.content_A = self.netE_c(self.inputs["A"], "A", noisy=True)
        self.content_B = self.netE_c(self.inputs["B"], "B", noisy=True)

    def translate_both(self) -> None:
        """Each image with its own attributes, with those of the other image, and back from there."""
        self.real_A, self.real_B = self.inputs["A"], self.inputs["B"]
        self.normal_A = self.netE_a(self.real_A, "A")
        self.normal_B = self.netE_a(self.real_B, "B")
        attributes_A, attributes_B = drawn_from(*self.normal_A), drawn_from(*self.normal_B)

        # contents with attributes of the other image, and with their own
        self.fake_A = self.netG(self.content_B, attributes_A, "A")
        self.fake_B = self.netG(self.content_A, attributes_B, "B")
        self.rec_A = self.netG(self.content_A, attributes_A, "A")
        self.rec_B = self.netG(self.content_B, attributes_B, "B")

        # exchanged once more
        again_A = self.attributes_of("A", self.fake_A)
        again_B = self.attributes_of("B", self.fake_B)
        content_B_again = self.netE_c(self.fake_A, "A", noisy=True)
        content_A_again = self.netE_c(self.fake_B, "B", noisy=True)
        self.cyc_A = self.netG(content_A_again, again_A, "A")
        self.cyc_B = self.netG(content_B_again, again_B, "B")

    def attributes_of(self, role: str, images: Tensor) -> Tensor:
        """(B,C,H,W) images of a domain -> attributes (B, style_dim), drawn from what E_a reads."""
        return drawn_from(*self.netE_a(images, role))

    def translate_at_random(self) -> None:
        """Translations with attributes from N(0, I): one, or two for mode seeking."""
        shape = (len(self.real_A), self.draws, self.opt.style_dim)
        self.codes = torch.randn(shape, device=self.device).unbind(1)

        self.randoms_A = [self.netG(self.content_B, code, "A") for code in self.codes]
        self.randoms_B = [self.netG(self.content_A, code, "B") for code in self.codes]
        self.random_A, self.random_B = self.randoms_A[0], self.randoms_B[0]

    def optimize_parameters(self) -> None:
        """In the first step of a cycle all players, judges first; in the others D_content alone."""
        if self.turn > 0:
            self.update("D_content", loss=self.compute_content_loss)
            return

        self.update_at_once(D=self.compute_D_loss, D_content=self.compute_content_loss)
        self.update_at_once(
            Move(("G", "E_c", "E_a"), self.compute_G_loss, keep_graph=True),
            Move(("E_c", "G"), self.compute_random_loss),
        )

    def compute_content_loss(self) -> dict[str, Tensor]:
        """Tell from a content which domain it is of."""
        scores_A = self.netD_content(self.content_A.detach())
        scores_B = self.netD_content(self.content_B.detach())
        return {"D_content": content_discriminator_loss(scores_A, scores_B)}

    def compute_D_loss(self) -> dict[str, Tensor]:
        """Tell real images from translations with attributes that were read, or drawn (D_A2, D_B2)."""
        terms = {
            "D_A": self.judge("D_A", self.real_A, self.fake_A),
            "D_B": self.judge("D_B", self.real_B, self.fake_B),
        }
        for role, randoms in (("A", self.randoms_A), ("B", self.randoms_B)):
            terms[f"D_{role}2"] = self.judge(f"D_{role}2", self.others[role], *randoms)
        return terms

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D_A, D_B, D_content; come back to the images; keep attributes normal, contents small."""
        opt, nets = self.opt, self.networks
        terms = {
            "G_A": self.fool(nets["D_A"], self.fake_A),
            "G_B": self.fool(nets["D_B"], self.fake_B),
            "rec_A": opt.lambda_rec * l1_distance(self.rec_A, self.real_A),
            "rec_B": opt.lambda_rec * l1_distance(self.rec_B, self.real_B),
            "cycle_A": opt.lambda_rec * l1_distance(self.cyc_A, self.real_A),
            "cycle_B": opt.lambda_rec * l1_distance(self.cyc_B, self.real_B),
            "kl_A": opt.lambda_kl * normal_divergence(*self.normal_A),
            "kl_B": opt.lambda_kl * normal_divergence(*self.normal_B),
        }

        for role, content in (("A", self.content_A), ("B", self.content_B)):
            terms[f"content_{role}"] = content_confusion_loss(self.netD_content(content))
            terms[f"size_{role}"] = opt.lambda_kl * content.square().mean()
        return terms

    def compute_random_loss(self) -> dict[str, Tensor]:
        """Fool D_A2, D_B2 with drawn attributes that show in the image: two make two images.

        E_a only reads here: it does not move down this loss.
        """
        opt, terms = self.opt, {}
        for role, randoms in (("A", self.randoms_A), ("B", self.randoms_B)):
            net = self.networks[f"D_{role}2"]
            terms[f"G_{role}2"] = sum(self.fool(net, fake) for fake in randoms)

            read, _ = self.netE_a(randoms[0], role)
            terms[f"latent_{role}"] = opt.lambda_latent * l1_distance(read, self.codes[0])
            if not opt.no_ms:
                terms[f"ms_{role}"] = mode_seeking_loss(*randoms, *self.codes)
        return terms

    def encode_styles(self, role: str, images: Tensor) -> Tensor:
        """(B,C,H,W) images of a domain -> (B, style_dim), the mean of their attributes."""
        mean, _ = self.inference_net("E_a")(images, role)
        return mean

    def translate_with(self, role: str, images: Tensor, styles: Tensor) -> Tensor:
        """(B,C,H,W) images of domain `role` -> the same size in the other, in styles (B, style_dim)."""
        content = self.inference_net("E_c")(images, role)
        return self.inference_net("G")(content, styles, OTHER[role])

    def translating_parts(self) -> list[nn.Module]:
        """What reads contents of A, and what makes images of B out of them and attributes."""
        encoder, generator = self.inference_net("E_c"), self.inference_net("G")
        return [encoder.own["A"], encoder.shared, generator.shared, generator.own["B"]]


def drawn_from(mean: Tensor, log_variance: Tensor) -> Tensor:
    """One draw from each N(mean, variance), (B,Z); gradients reach both."""
    noise = torch.randn(mean.shape, device=mean.device)
    return mean + noise * (0.5 * log_variance).exp()
