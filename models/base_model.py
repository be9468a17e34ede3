"""What every method shares: the contract with train.py and test.py, and how its networks are built from options."""

from abc import ABC, abstractmethod
from argparse import Namespace
from typing import Any

from torch import Tensor, nn

from data.base_dataset import BaseDataset
from models.idle import Idle, idle_in_networks, idle_in_training
from models.inference.bar import Tell, nobody_listens
from models.networks import create_discriminator, create_generator, initialize_weights
from models.networks.image_pool import ImagePool
from models.step.parts import Parts
from util.errors import UserError
from util.hardware.runtime import Runtime


class BaseModel(Parts, ABC):
    """A method: networks, optimisers and the order in which losses update them.

    A subclass builds everything in its constructor (`add_network`, `add_optimizer`) and implements `forward` and
    `optimize_parameters`; the latter is a list of `self.update(...)` calls, one per player, in the paper's order.
    At test only what `translate` needs is built. How a step works is in models/step/training_step.py, how parts are
    registered and saved in models/step/parts.py.

    Attributes:
        PRESETS: published configurations, name -> {option: value}; the first is the default.
        ALIASES: other names of the method that --model takes, such as that of its release -> flags that must be there
            for it to mean this method, where several share the name.
        IMPLIED_BY: flags that mean this method in a training command without --model, as its release's commands.
        TRAIN_ROLES: of which domains a step of training has images.
        TEST_ROLES: which domains test.py reads: "A", or "AB" where the method shows or translates both.
        TRAINABLE: False for a method without training: test.py then needs no run.
        WITH_GRADIENTS: whether `show` takes gradients, as a method does that optimises the picture itself.
        COSTLY: whether a picture takes minutes: test.py then records each finished one, and the same command again goes
            on with the next.
        USES_RUN: False where test.py has nothing to take from a training run, neither weights nor options.
        FIRST_WEIGHTS: options of the method that name weights which only the first start of a run reads.
        SIZE_MULTIPLE: what sides of images are made multiples of; None: what the generator needs.
        visual_names: attributes shown as pictures.
        tell: what `show` may call now and then, with figures such as its loss. test.py shows them, and counts the last
            ones to the figures of each picture of the batch, whose means stand on its page.
        not_recordable: why this method's step cannot be recorded (--cuda_graph), None if it can.
    """

    PRESETS: dict[str, dict[str, Any]] = {}
    ALIASES: dict[str, tuple[str, ...]] = {}
    IMPLIED_BY: tuple[str, ...] = ()
    TRAIN_ROLES = "AB"
    TEST_ROLES = "A"
    TRAINABLE = True
    WITH_GRADIENTS = False
    COSTLY = False
    USES_RUN = True
    FIRST_WEIGHTS: tuple[str, ...] = ()
    SIZE_MULTIPLE: int | None = None
    not_recordable: str | None = None

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Add the flags of this method, and its defaults for shared ones; returns the parser."""
        return parser

    @classmethod
    def default_preset(cls, given: dict[str, Any]) -> str | None:
        """The preset used when --preset is not given; `given` holds the flags that were."""
        return next(iter(cls.PRESETS), None)

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """Checks across this method's flags, before data is touched; raises UserError."""

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """Options that change nothing beside the present values of others, so that no recipe holds them.

        A method adds its own to those of the networks and the schedule that all methods share.
        """
        return [*idle_in_networks(opt), *idle_in_training(opt)]

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        self.visual_names: list[str] = []
        self.tell: Tell = nobody_listens

    # -- building --------------------------------------------------------------------------------------------------

    def new_generator(self, input_nc: int, output_nc: int) -> nn.Module:
        """A generator as the options describe it, initialised."""
        opt = self.opt
        net = create_generator(
            opt.netG,
            input_nc,
            output_nc,
            opt.ngf,
            norm=opt.normG,
            padding=opt.padG,
            use_dropout=not opt.no_dropout,
            antialias=not opt.no_antialias,
            antialias_up=not opt.no_antialias_up,
            size=opt.stylegan2_size,
            halvings=opt.stylegan2_G_num_downsampling,
        )
        return self.initialized(net)

    def new_discriminator(self, input_nc: int) -> nn.Module:
        """A discriminator as the options describe it, initialised."""
        opt = self.opt
        net = create_discriminator(
            opt.netD,
            input_nc,
            opt.ndf,
            n_layers=opt.n_layers_D,
            norm=opt.normD,
            antialias=not opt.no_antialias,
            size=opt.stylegan2_size,
        )
        return self.initialized(net)

    def new_pool(self, size: int, channels: int) -> ImagePool:
        """A memory of `size` translated images; with a crop their size is known beforehand."""
        side = self.opt.crop_size
        shape = (channels, side, side) if "crop" in self.opt.preprocess else None
        return ImagePool(size, shape, only_finite=self._skip_bad)

    def initialized(self, net: nn.Module) -> nn.Module:
        """The network with initial weights as --init_type asks (at test they are loaded instead)."""
        if self.is_train:
            initialize_weights(net, self.opt.init_type, self.opt.init_gain)
        return net

    # -- before the first step -------------------------------------------------------------------------------------

    def prepare(self, dataset: BaseDataset) -> None:
        """Learn what a step must know of the whole data set, such as statistics of its images.

        Called once in the life of a run. The result belongs into modules of `add_memory`, which are saved with the run;
        `dataset.sample(index)` gives images, the same on every machine.
        """

    def check_data(self, dataset: BaseDataset) -> None:
        """Raise UserError for images that the method cannot learn from; asked at every start, before the first step."""
        missing = sorted(set(self.TRAIN_ROLES) - set(dataset.domains))
        if missing:
            raise UserError(
                f"--dataset_mode {self.opt.dataset_mode} has no images of domain {missing[0]}, from which "
                f"--model {self.opt.model} learns: leave the flag out, or take one with both domains"
            )

    def prepare_once(self, dataset: BaseDataset) -> None:
        """`check_data`, and `prepare` unless the run that is being continued has done so."""
        self.check_data(dataset)
        if not self._prepared:
            self.prepare(dataset)
            self._prepared = True

    # -- one step --------------------------------------------------------------------------------------------------

    def load(self, batch: dict[str, Any]) -> None:
        """Set the attributes that `forward` reads; a method with other inputs overrides it."""
        self.real_A: Tensor = batch["A"]
        self.real_B: Tensor = batch["B"]

    @abstractmethod
    def forward(self) -> None:
        """Run the generators on the loaded batch; sets fake_B and so on."""

    @abstractmethod
    def optimize_parameters(self) -> None:
        """One step of every player on the current batch."""

    @abstractmethod
    def translate(self, real_A: Tensor) -> Tensor:
        """Translate images (B,C,H,W) in [-1,1]; all that inference needs."""

    def show(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The pictures that test.py writes for a batch of the test set: label -> (B,C,H,W) in [-1,1].

        The batch holds what the data set reads at test, see `TEST_ROLES`.
        """
        return {"real_A": batch["A"], "fake_B": self.translate(batch["A"])}

    def sources(self, batch: dict[str, Any], place: int) -> list[str]:
        """The files that the pictures of one sample of a batch are made from."""
        return [batch[key][place] for key in batch if key.endswith("_paths")]

    def facts(self) -> dict[str, str]:
        """What the page of test.py must say about a result beyond recipe and weights: topic -> text."""
        return {}

    def measure(self, pictures: dict[str, Tensor]) -> dict[str, float]:
        """Figures of one translated image, from the pictures that `show` gave, (C,H,W) each; their means are shown."""
        return {}

    def explain(self, pictures: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the method knows about one translated image beyond its pictures, which `show` gave: (C,H,W) each.

        Returns figures, label -> uint8 (3,h,w), and numpy arrays, name -> values, for test.py to write.
        """
        return {}, {}

    # -- what the loop asks for -------------------------------------------------------------------------------------

    def get_current_losses(self) -> dict[str, Tensor]:
        """Losses of the last step: name -> 0-d tensor on the device."""
        return dict(self.losses)

    def get_current_visuals(self) -> dict[str, Tensor]:
        """Pictures of the last step that made any: name -> (B,C,H,W) in [-1,1].

        A run that goes on in the middle of a cycle may have made none yet.
        """
        made = [name for name in self.visual_names if hasattr(self, name)]
        return {name: getattr(self, name).detach() for name in made}

    def inference_net(self, name: str = "G") -> nn.Module:
        """The network to translate with: its moving average where there is one."""
        return self.averages.get(name, self.networks[name])

    def translating_parts(self) -> list[nn.Module]:
        """What takes an image from A to B, in a style that is drawn where the method has styles: all networks.

        A method whose networks hold more at test, such as the way back, says which parts of them do.
        """
        return [self.inference_net(name) for name in self.networks]

    def count_parameters(self) -> int:
        """How many parameters translate from A to B."""
        return sum(p.numel() for part in self.translating_parts() for p in part.parameters())

    def eval(self) -> None:
        """Evaluation mode for all networks: batch norm with running statistics, no dropout."""
        for net in self.networks.values():
            net.eval()

    def describe(self) -> str:
        """Networks and their sizes, one a line."""
        lines = []
        for name, net in self.networks.items():
            count = sum(p.numel() for p in net.parameters())
            lines.append(f"net{name}: {type(net).__name__}, {count / 1e6:.3f} M parameters")
            if self.opt.verbose:
                lines.append(str(net))
        compiled = [
            f"net{name}" for name, net in self.networks.items() if self.runtime.compiles(net)
        ]
        if self._recompute:
            lines.append(
                f"--grad_checkpoint: {self._recomputed} residual blocks are computed twice"
            )
        if self.runtime.compile and compiled:
            lines.append(f"the first step waits until {', '.join(compiled)} are compiled in part")
        return "\n".join(lines)
