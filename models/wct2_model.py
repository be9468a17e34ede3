"""WCT2: photorealistic style transfer by wavelets (Yoo, Uh, Chun, Kang, Ha; ICCV 2019, arXiv 1903.09760).

    training:   L = mean (D(E(x)) - x)^2 + lambda_gram * mean_levels |G_l(D(E(x))) - G_l(x)|^2 / |G_l(x)|^2
    test:       every feature that passes from E to D takes the mean and covariance of the style's

E is VGG with Haar wavelets in place of max pooling, and never trains; D, its mirror image, learns to put photographs
together again. G_l are Gram matrices of E's features at level l. Nothing is learned of any style.
"""

from argparse import ArgumentTypeError, Namespace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.base_dataset import BaseDataset
from models.base_model import BaseModel
from models.inference.regions import Regions, content_and_style, label_files, read_label_pair
from models.inference.whitening import transfer
from models.losses.gram import gram_loss
from models.networks.vgg import describe_file, describe_weights
from models.networks.wavelet import HaarUnpool
from models.networks.wavelet_autoencoder import (
    LEVELS,
    Skips,
    WaveletDecoder,
    WaveletEncoder,
    padded,
)
from util.errors import UserError
from util.hardware.precision import full_precision
from util.hardware.runtime import Runtime
from util.hardware.team import print_once

PLACES = ("encoder", "skip", "decoder")


def place_list(text: str) -> list[str]:
    """Read "encoder,skip"."""
    places = [place for place in text.split(",") if place]
    wrong = [place for place in places if place not in PLACES]
    if wrong or not places:
        raise ArgumentTypeError(f"expected some of {','.join(PLACES)}, got {text!r}")
    return places


class WCT2Model(BaseModel):
    """Encoder E, frozen, and decoder D, here netG; at test a content (A) takes the look of a style (B).

    Weight of the Gram term, learning rate and schedule of the decoder's training are chosen here: the publication has
    the form of the loss and MS-COCO as data.
    """

    PRESETS = {
        "official": {
            "lr": 0.0003,
            "beta1": 0.9,
            "n_epochs": 10,
            "n_epochs_decay": 10,
        },
        "shared": {},  # the common schedule; there is no generator or discriminator to have in common
    }
    TRAIN_ROLES = "A"
    SIZE_MULTIPLE = 1  # images are filled up here, so that no filling counts as style

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method."""
        net = parser.group("architecture")
        text = "how the decoder puts wavelets together: added up, or left to a convolution (cat5)"
        net.add("--unpool", "cat5", text, choices=tuple(HaarUnpool.MODES))

        group = parser.group("wct2")
        text = (
            "of the frozen VGG encoder: imagenet (VGG19), random (tests), or a file of VGG16, VGG19 "
            "or the release"
        )
        group.add("--vgg_weights", "imagenet", text)
        group.add("--lambda_gram", 0.01, "weight of the Gram matrices in training; 0: off")

        parser.set_defaults(dataset_mode="photographs")
        if not is_train:
            WCT2Model.add_test_options(parser.group("results"))
        return parser

    @staticmethod
    def add_test_options(group) -> None:
        """Flags that say how a style is transferred."""
        text = f"which features take the style: some of {','.join(PLACES)}"
        group.add("--transfer_at", list(PLACES), text, place_list)
        group.add("--alpha", 1.0, "how much of the style: 0 none, 1 all")
        group.add("--decoder", None, "a published decoder, instead of that of the run")
        text = "show what the decoder makes of the content alone, and its PSNR"
        group.add("--show_reconstruction", False, text)

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """VGG sees colours, and a part lies between none and all."""
        if (opt.input_nc, opt.output_nc) != (3, 3):
            raise UserError(
                f"--model wct2 exchanges features of colour images: leave --input_nc {opt.input_nc} "
                f"and --output_nc {opt.output_nc} at 3"
            )
        if not opt.is_train and not 0 <= opt.alpha <= 1:
            raise UserError(f"--alpha {opt.alpha}: a part lies between 0 and 1")

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        encoder = WaveletEncoder(opt.unpool, opt.vgg_weights)
        decoder = WaveletDecoder(opt.unpool, encoder.thirds)
        decoder.made_for.copy_(encoder.fingerprint())
        self.netE = runtime.place(encoder)

        if not self.is_train and opt.decoder:
            decoder.load_published(opt.decoder)
            self.netG = runtime.place(decoder)
            return
        self.netG = self.add_network("G", decoder, average=True)
        if self.is_train:
            self.visual_names = ["real_A", "rec_A"]
            self.add_optimizer("G", self.netG)

    def describe(self) -> str:
        """The decoder, and which VGG encodes."""
        return f"{super().describe()}\nencoder: frozen, {self.facts()['encoder']}"

    def facts(self) -> dict[str, str]:
        """Which weights made a result."""
        opt = self.opt
        found = {"encoder": f"{self.netE.architecture}, {describe_weights(opt.vgg_weights)}"}
        if not self.is_train and opt.decoder:
            found["decoder"] = describe_file(Path(opt.decoder))
        return found

    # -- training --------------------------------------------------------------------------------------------------

    def prepare(self, dataset: BaseDataset) -> None:
        """From here on the decoder learns for this encoder, whatever its first weights were made for."""
        fingerprint = self.netE.fingerprint()
        if not self.is_made_for(fingerprint):
            print_once(
                f"warning: these weights belong to another encoder than --vgg_weights {self.opt.vgg_weights}, for "
                "which they are trained from here on; if that is not meant, give the file of their own training"
            )
        for decoder in (self.netG, *self.averages.values()):
            decoder.made_for.copy_(fingerprint)

    def load(self, batch: dict[str, Any]) -> None:
        """Photographs alone."""
        self.real_A: Tensor = batch["A"]

    def forward(self) -> None:
        """Take photographs apart, and put them together again."""
        self.images = padded(self.real_A / 2 + 0.5)
        with torch.no_grad():
            self.feats, skips = self.netE(self.images)
        self.rebuilt = self.netG(self.feats[-1], skips)
        self.rec_A = self.shown(self.rebuilt, self.real_A)

    def optimize_parameters(self) -> None:
        """The decoder alone."""
        self.update("G", loss=self.compute_G_loss)

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Reconstruction, and the same Gram matrices; logs the PSNR in dB."""
        terms = {"rec": (full_precision(self.rebuilt) - self.images).square().mean()}
        self.log("PSNR", psnr(self.rec_A, self.real_A).mean())
        if self.opt.lambda_gram:
            feats, _ = self.netE(self.rebuilt)
            losses = [
                gram_loss(feat, target).mean()
                for feat, target in zip(feats, self.feats, strict=True)
            ]
            terms["gram"] = self.opt.lambda_gram * torch.stack(losses).mean()
        return terms

    @staticmethod
    def shown(rebuilt: Tensor, like: Tensor) -> Tensor:
        """What the decoder gives -> (B,3,H,W) in [-1,1], of the size of `like`."""
        height, width = like.shape[2:]
        return rebuilt[:, :, :height, :width] * 2 - 1

    @property
    def decoder(self) -> WaveletDecoder:
        """What translates: the decoder's moving average where there is one, or a published one."""
        return self.averages.get("G", self.netG)

    # -- translating -----------------------------------------------------------------------------------------------

    def translate(self, real_A: Tensor) -> Tensor:
        """(B,3,H,W) in [-1,1] -> the same, put together from its own features."""
        feats, skips = self.netE(padded(real_A / 2 + 0.5))
        return self.shown(self.decoder(feats[-1], skips), real_A)

    def show(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Contents, their styles, and the contents with the looks of the styles."""
        self.check_pair()
        contents, styles = content_and_style(self.opt, batch)
        pictures = {"real_A": contents, "style": styles}

        made = []
        for place in range(len(contents)):
            labels = read_label_pair(self.opt, batch, place)
            one = slice(place, place + 1)
            made.append(self.stylize(contents[one], styles[one], labels))
        pictures["fake_B"] = torch.cat(made)

        if self.opt.show_reconstruction:
            pictures["rec_A"] = self.translate(contents)
        return pictures

    def measure(self, pictures: dict[str, Tensor]) -> dict[str, float]:
        """The PSNR of what the decoder makes of the content alone, where that is shown."""
        if "rec_A" not in pictures:
            return {}

        rec_A, real_A = pictures["rec_A"][None], pictures["real_A"][None]
        return self.runtime.alone().mean({"PSNR": psnr(rec_A, real_A).mean()})

    def sources(self, batch: dict[str, Any], place: int) -> list[str]:
        """The images, and their label maps."""
        return [*super().sources(batch, place), *label_files(self.opt, batch, place)]

    def stylize(
        self, content: Tensor, style: Tensor, labels: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Images (1,3,H,W) and (1,3,h,w) in [-1,1] -> the content, in the look of the style.

        Args:
            labels: label maps (H,W) and (h,w); equal numbers are regions that belong together.

        Raises:
            UnfitImage: one of the images is too small, or the label maps have nothing in common.
        """
        where = self.opt.transfer_at
        x, style_x = padded(content / 2 + 0.5), padded(style / 2 + 0.5, "its style")
        exchange = partial(self.exchange, regions=self.padded_regions(labels))

        # what the style is
        style_feats, style_skips = self.netE(style_x)
        style_inside = self.decoded(style_feats[-1], style_skips) if "decoder" in where else {}

        # the content takes it on its way down, aside, and up again
        skips: Skips = {}
        for level in LEVELS:
            x = self.netE.stage(level, x, skips)
            if "encoder" in where:
                x = exchange(x, style_feats[level - 1])
        if "skip" in where:
            for level, skip in skips.items():
                pairs = zip(skip.details, style_skips[level].details, strict=True)
                skips[level] = skip.with_details([exchange(own, other) for own, other in pairs])

        in_decoder = {1, 2, 3} if "encoder" in where else {1, 2, 3, 4}
        for level in LEVELS[::-1]:
            if "decoder" in where and level in in_decoder:
                x = exchange(x, style_inside[level])
            x = self.decoder.stage(level, x, skips)
        return self.shown(x, content)

    def decoded(self, x: Tensor, skips: Skips) -> dict[int, Tensor]:
        """The features that each level of the decoder begins with, for the style itself."""
        found = {}
        for level in LEVELS[::-1]:
            found[level] = x
            x = self.decoder.stage(level, x, skips)
        return found

    def exchange(self, content_BCHW: Tensor, style_BCHW: Tensor, regions: Regions | None) -> Tensor:
        """A feature map of the content with the style's statistics, region by region."""
        masks = None
        if regions is not None:
            masks = regions.masks(content_BCHW.shape[2:], style_BCHW.shape[2:])
        return transfer(content_BCHW, style_BCHW, self.opt.alpha, masks)

    @staticmethod
    def padded_regions(labels: tuple[Tensor, Tensor] | None) -> Regions | None:
        """Label maps filled up like their images."""
        if labels is None:
            return None
        content_HW, style_HW = (
            padded(map_HW.double()[None, None])[0, 0].long() for map_HW in labels
        )
        return Regions(content_HW, style_HW)

    # -- the pair --------------------------------------------------------------------------------------------------

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; raises UserError where the encoder is another one."""
        super().load_state_dict(state)
        self.check_pair()

    def check_pair(self) -> None:
        """Raise UserError for another encoder than in training: results would be noise."""
        if not self.is_made_for(self.netE.fingerprint()):
            raise UserError(
                f"--vgg_weights {self.opt.vgg_weights} is not the encoder that this decoder was "
                "trained with; give the file that its training was given, see train_opt.txt"
            )

    def is_made_for(self, fingerprint: Tensor) -> bool:
        """Whether the decoder was trained for the encoder of this fingerprint."""
        return torch.allclose(self.decoder.made_for, fingerprint, rtol=1e-5)


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images (B,C,H,W) in [-1,1], clamped: (B,), in dB."""
    error = full_precision(images).clamp(-1, 1) - full_precision(target)
    return 10 * torch.log10(4 / error.square().mean((1, 2, 3)).clamp(min=1e-10))
