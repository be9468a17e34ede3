"""What every method shares: the contract with train.py and test.py, and the building and saving of its parts."""

import copy
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from data.base_dataset import BaseDataset
from models.inference.bar import Tell, nobody_listens
from models.networks import create_discriminator, create_generator, initialize_weights
from models.networks.image_pool import ImagePool
from models.networks.recompute import recompute_blocks
from models.step.training_step import TrainingStep
from util.errors import UserError
from util.hardware.batch_norm import has_batch_norm
from util.hardware.runtime import Runtime
from util.run.schedule import BY_STEP, create_scheduler, rate_now


class BaseModel(TrainingStep, ABC):
    """A method: networks, optimisers and the order in which losses update them.

    A subclass builds everything in its constructor (`add_network`, `add_optimizer`) and implements `forward` and
    `optimize_parameters`; the latter is a list of `self.update(...)` calls, one per player, in the paper's order.
    At test only what `translate` needs is built. How a step works is in models/step/training_step.py.

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
        SIZE_MULTIPLE: what sides of images are made multiples of; None: what the generator needs.
        visual_names: attributes shown as pictures.
        tell: what `show` may call now and then, with figures such as its loss. test.py shows them, and the last ones of
            each picture as a mean on its page.
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

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        training = opt.is_train
        super().__init__(
            runtime,
            ema=opt.ema if training else 0,
            accumulate=opt.accumulate if training else 1,
            skip_bad=training and opt.on_nonfinite == "skip",
        )
        self.opt = opt
        self.is_train = opt.is_train
        self.schedulers: dict[str, Any] = {}
        self.visual_names: list[str] = []
        self._adam: dict[
            str, dict[str, Any]
        ] = {}  # what was asked for, whatever a saved state says
        self._recompute = training and opt.grad_checkpoint
        self._recomputed = 0  # blocks
        self._prepared = False
        self._followers: set[str] = set()  # memories that are the same on all processes
        self.tell: Tell = nobody_listens

    # -- building --------------------------------------------------------------------------------------------------

    def add_network(self, name: str, net: nn.Module, average: bool = False) -> nn.Module:
        """Register a network on the device; `average` keeps its moving average too where --ema asks for one.

        Raises:
            UserError: batch normalisation, with an option that it contradicts.
        """
        self._check_batch_norm(name, net)
        self.networks[name] = self.runtime.place(net)
        if self.is_train:
            self.runtime.share_statistics(net)
        if average and self._ema:
            self.averages[name] = copy.deepcopy(net).requires_grad_(False)
        if self._recompute and not name.startswith("D"):  # some of these are differentiated twice
            self._recomputed += recompute_blocks(net)
        return net

    def _check_batch_norm(self, name: str, net: nn.Module) -> None:
        """Raise UserError where statistics of a batch would be others than an option promises."""
        contradicted = {
            f"--accumulate {self._accumulate}": (
                self._accumulate > 1,
                "whose statistics would be those of each part of the batch",
            ),
            "--on_nonfinite skip": (self._skip_bad, "whose statistics a skipped step has changed"),
            "--grad_checkpoint": (self._recompute, "which would note each batch twice"),
        }
        for flag, (given, why) in contradicted.items():
            if given and has_batch_norm(net):
                raise UserError(
                    f"{flag}: net{name} has batch normalisation, {why}; "
                    "leave the flag out, or give --normG instance --normD instance"
                )

    def add_follower(self, name: str, net: nn.Module) -> nn.Module:
        """Register a network that never trains but follows another (`follow`): part of the state, on the device."""
        self._followers.add(name)
        return self.add_memory(name, self.runtime.place(net).requires_grad_(False))

    def add_optimizer(
        self,
        name: str,
        *nets: nn.Module,
        lr: float | None = None,
        betas: tuple[float, float] | None = None,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        """Give networks one Adam on the run's schedule; `update(name, ...)` steps it.

        Args:
            name: of the player.
            lr, betas: where they are not --lr, --beta1 and --beta2.
            weight_decay: factor of the L2 term that Adam adds to the gradient.
            clip_norm: the gradient of the whole player is shortened to this length.
        """
        opt, rate = self.opt, lr or self.opt.lr
        self._trained_by[name] = list(nets)
        if clip_norm is not None:
            self._clip_norm[name] = clip_norm

        self._adam[name] = {
            "initial_lr": rate,
            "betas": betas or (opt.beta1, opt.beta2),
            "weight_decay": weight_decay,
            "fused": True,
            "capturable": self.runtime.capture,
        }
        group = {"params": [p for net in nets for p in net.parameters()], **self._adam[name]}
        self.optimizers[name] = torch.optim.Adam([group], lr=self.runtime.learning_rate(rate))

        self.schedulers[name] = create_scheduler(
            self.optimizers[name],
            opt.lr_policy,
            opt.n_epochs,
            opt.n_epochs_decay,
            opt.lr_decay_iters,
            opt.epoch_count,
        )

    def add_memory(self, name: str, module: nn.Module) -> nn.Module:
        """Register what a step remembers beside weights, such as a pool of images: part of the state, on the device."""
        self.memories[name] = module.to(self.device)
        return module

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
                f"--model {self.opt.model} learns: take --dataset_mode unaligned"
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

    def finish_step(self) -> None:
        """Count a step that is done, and move learning rates on that fall by steps."""
        super().finish_step()
        if self.opt.lr_policy in BY_STEP:
            for scheduler in self.schedulers.values():
                scheduler.step()

    def end_epoch(self) -> None:
        """Move learning rates on that fall by epochs."""
        mean_loss = self.runtime.mean(
            {"G": self._epoch_loss[0] / self._epoch_loss[1].clamp(min=1)}
        )["G"]
        self._epoch_loss.zero_()
        if self.opt.lr_policy in BY_STEP:
            return

        for scheduler in self.schedulers.values():
            if self.opt.lr_policy == "plateau":
                scheduler.step(mean_loss)
            else:
                scheduler.step()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first optimiser."""
        return float(next(iter(self.optimizers.values())).param_groups[0]["lr"])

    def inference_net(self, name: str = "G") -> nn.Module:
        """The network to translate with: its moving average where there is one."""
        return self.averages.get(name, self.networks[name])

    def eval(self) -> None:
        """Evaluation mode for all networks: batch norm with running statistics, no dropout."""
        for net in self.networks.values():
            net.eval()

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "networks": {name: net.state_dict() for name, net in self.networks.items()},
            "averages": {name: net.state_dict() for name, net in self.averages.items()},
            "memories": self.runtime.gather(self._own_memories()),
            "optimizers": {
                name: optimizer.state_dict() for name, optimizer in self.optimizers.items()
            },
            "loss_scale": self._loss_scale.state_dict(),
            "schedulers": {
                name: scheduler.state_dict() for name, scheduler in self.schedulers.items()
            },
            "epoch_loss": self._epoch_loss,
            "skipped": self._skipped,
            "steps": self.steps,
            "prepared": self._prepared,
        }

    def _own_memories(self) -> dict[str, Any]:
        """What this process remembers; what is the same on all, only on the main one."""
        kept = {}
        for name, module in self.memories.items():
            if self.runtime.is_main or name not in self._followers:
                kept[name] = module.state_dict()
        return kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; a learning rate, momenta or --ema that the options changed take effect."""
        for kind in ("networks", "optimizers", "schedulers"):
            for name, part in getattr(self, kind).items():
                part.load_state_dict(state[kind][name])

        # of several processes each has memories of its own; a further one starts from those of another
        first, own = (
            state["memories"][0],
            state["memories"][self.runtime.rank % len(state["memories"])],
        )
        for name, module in self.memories.items():
            module.load_state_dict(own.get(name, first[name]))
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"].get(name, state["networks"][name]))

        scale = state["loss_scale"]
        if scale.keys() == self._loss_scale.state_dict().keys():  # else --amp has changed
            self._loss_scale.load_state_dict(scale)

        for name, asked in self._adam.items():
            self._renew_optimizer(name, asked)

        self._epoch_loss.copy_(state["epoch_loss"])
        self._skipped.copy_(state["skipped"])
        self.steps, self._prepared = state["steps"], state["prepared"]

    def _renew_optimizer(self, name: str, asked: dict[str, Any]) -> None:
        """What the options ask for wins over a loaded state; moments take the layout that the weights have here.

        The rate is that of the schedule as it is now: its length may have changed since the state was saved.
        """
        optimizer, scheduler = self.optimizers[name], self.schedulers[name]
        for group in optimizer.param_groups:
            rate = rate_now(scheduler, group, asked["initial_lr"])
            group.update(asked, lr=self.runtime.learning_rate(rate))
        scheduler.base_lrs = [asked["initial_lr"]]

        for parameter, moments in optimizer.state.items():
            for key, value in moments.items():
                if value.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)

    def memory_use(self) -> dict[str, int]:
        """What takes memory as long as the run lasts: name -> bytes."""
        found = {}
        for name, net in self.networks.items():
            found[f"net{name}"] = bytes_of(net.state_dict().values())
        for name, net in self.averages.items():
            found[f"the average of net{name}"] = bytes_of(net.state_dict().values())
        for name, optimizer in self.optimizers.items():
            groups = [group["params"] for group in optimizer.param_groups]
            grads = [p.grad for params in groups for p in params if p.grad is not None]
            moments = [value for state in optimizer.state.values() for value in state.values()]
            found[f"gradients and Adam of {name}"] = bytes_of([*grads, *moments])
        for name, memory in self.memories.items():
            found[name] = bytes_of([*memory.buffers(), *memory.parameters()])
        return found

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


def bytes_of(tensors: Iterable[Any]) -> int:
    """What tensors take in memory; other values take none."""
    return sum(x.numel() * x.element_size() for x in tensors if isinstance(x, Tensor))
