"""What every method shares: the contract with train.py and test.py, and the update of networks by their losses."""

import copy
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.networks import create_discriminator, create_generator, initialize_weights
from util.errors import UserError
from util.runtime import Runtime
from util.schedule import create_scheduler


class BaseModel(ABC):
    """A method: networks, optimisers and the order in which losses update them.

    A subclass builds everything in its constructor (`add_network`, `add_optimizer`) and implements `forward` and
    `optimize_parameters`; the latter is a list of `self.update(...)` calls, one per player, in the paper's order.
    At test only what `translate` needs is built.

    Attributes:
        PRESETS: published configurations, name -> {option: value}; the first is the default.
        networks: name -> module, saved as <epoch>_net_<name>.pth.
        losses: name -> 0-d tensor on the device, of the last step.
        visual_names: attributes shown as pictures.
    """

    PRESETS: dict[str, dict[str, Any]] = {}

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
        self.opt = opt
        self.runtime = runtime
        self.device = runtime.device
        self.is_train = opt.is_train
        self.networks: dict[str, nn.Module] = {}
        self.averages: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.schedulers: dict[str, Any] = {}
        self.losses: dict[str, Tensor] = {}
        self.visual_names: list[str] = []
        self._trained_by: dict[str, list[nn.Module]] = {}
        self._adam: dict[str, tuple[float, tuple[float, float]]] = {}  # learning rate and momenta that were asked for
        self._micro_batches: list[dict[str, Any]] = []
        self._loaded: int | None = None  # which micro-batch the last forward saw
        self._not_finite: dict[str, Tensor] = {}
        self._tripped = torch.zeros((), device=self.device)
        self._epoch_loss = torch.zeros(2, dtype=torch.float64, device=self.device)  # sum of G's loss, steps

    # -- building --------------------------------------------------------------------------------------------------

    def add_network(self, name: str, net: nn.Module, average: bool = False) -> nn.Module:
        """Register a network on the device; `average` keeps its moving average too where --ema asks for one."""
        self.networks[name] = self.runtime.place(net)
        if average and self.is_train and self.opt.ema:
            self.averages[name] = copy.deepcopy(net).requires_grad_(False)
        return net

    def add_optimizer(self, name: str, *nets: nn.Module, lr: float | None = None, betas: tuple | None = None) -> None:
        """Give networks one Adam with the run's learning rate and schedule; `update(name, ...)` steps it."""
        opt = self.opt
        self._trained_by[name] = list(nets)
        self._adam[name] = (lr or opt.lr, betas or (opt.beta1, opt.beta2))
        rate, momenta = self._adam[name]
        group = {"params": [p for net in nets for p in net.parameters()], "initial_lr": rate}
        self.optimizers[name] = torch.optim.Adam([group], lr=rate, betas=momenta, fused=True)
        self.schedulers[name] = create_scheduler(
            self.optimizers[name], opt.lr_policy, opt.n_epochs, opt.n_epochs_decay, opt.lr_decay_iters, opt.epoch_count
        )

    def new_generator(self, input_nc: int, output_nc: int) -> nn.Module:
        """A generator as the options describe it, initialised."""
        opt = self.opt
        net = create_generator(
            opt.netG, input_nc, output_nc, opt.ngf, norm=opt.normG, use_dropout=not opt.no_dropout,
            antialias=not opt.no_antialias, antialias_up=not opt.no_antialias_up,
        )  # fmt: skip
        return self.initialized(net)

    def new_discriminator(self, input_nc: int) -> nn.Module:
        """A discriminator as the options describe it, initialised."""
        opt = self.opt
        net = create_discriminator(opt.netD, input_nc, opt.ndf, opt.n_layers_D, opt.normD, not opt.no_antialias)
        return self.initialized(net)

    def initialized(self, net: nn.Module) -> nn.Module:
        """The network with initial weights as --init_type asks (at test they are loaded instead)."""
        if self.is_train:
            initialize_weights(net, self.opt.init_type, self.opt.init_gain)
        return net

    # -- one step --------------------------------------------------------------------------------------------------

    def set_input(self, batch: dict[str, Any]) -> None:
        """Take a batch from the loader, cut into the micro-batches of --accumulate."""
        parts = self.opt.accumulate
        self._loaded = None
        self._micro_batches = [
            {key: value[k * len(value) // parts : (k + 1) * len(value) // parts] for key, value in batch.items()}
            for k in range(parts)
        ]

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

    def update(self, *names: str, loss: Callable[[], dict[str, Tensor]]) -> None:
        """Step the named optimisers down the sum of the terms that `loss()` returns, all other networks frozen.

        Several micro-batches add up to exactly the gradient of one large batch: each player sees all of them before
        it moves. A term that is not finite, on any process, stops all further steps on the device itself, so that
        the weights stay good until `check_finite` reports it.
        """
        players = [net for name in names for net in self._trained_by[name]]
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)
        for _ in self._forwarded_micro_batches():
            with self._only_training(players):
                terms = loss()
                total = sum(terms.values()) / len(self._micro_batches)
                total.backward()
            self._record(names[0], terms)
        self.runtime.average_gradients(p for net in players for p in net.parameters())
        self.runtime.any(self._tripped)
        for name in names:
            self.optimizers[name].found_inf = self._tripped  # a fused Adam skips its step where this is 1
            self.optimizers[name].step()
        self._update_averages(players)

    def _forwarded_micro_batches(self) -> Iterator[int]:
        for index, batch in enumerate(self._micro_batches):
            if self._loaded != index:
                self.load(batch)
                self.forward()
                self._loaded = index
            yield index

    def _only_training(self, players: list[nn.Module]) -> "_Frozen":
        trained = {id(net) for net in players}
        return _Frozen([net for net in self.networks.values() if id(net) not in trained])

    def _record(self, player: str, terms: dict[str, Tensor]) -> None:
        total = sum(terms.values()).detach()
        for name, value in {**terms, player: total}.items():
            self.log(name, value)
            bad = (~torch.isfinite(value)).float()
            self._not_finite[name] = torch.maximum(self._not_finite.get(name, bad), bad)
            self._tripped = torch.maximum(self._tripped, bad)
        if player == "G":
            share = torch.full_like(total.double(), 1 / len(self._micro_batches))
            self._epoch_loss += torch.stack([total.double() * share, share])

    def _update_averages(self, players: list[nn.Module]) -> None:
        """EMA: average <- decay * average + (1 - decay) * weights."""
        for name, average in self.averages.items():
            if any(self.networks[name] is net for net in players):
                with torch.no_grad():
                    for kept, new in zip(
                        average.state_dict().values(), self.networks[name].state_dict().values(), strict=True
                    ):
                        kept.lerp_(new, 1 - self.opt.ema) if kept.is_floating_point() else kept.copy_(new)

    def log(self, name: str, value: Tensor) -> None:
        """Report a 0-d tensor, the mean over the step's micro-batches."""
        earlier = self.losses[name] if self._loaded else 0  # of this step's earlier micro-batches
        self.losses[name] = earlier + value.detach() / len(self._micro_batches)

    # -- what the loop asks for -------------------------------------------------------------------------------------

    def check_finite(self, last_checkpoint: str) -> None:
        """Raise UserError when a loss of any step so far was not finite; the weights are those before that step."""
        bad = self.runtime.mean(self._not_finite)
        names = [name for name, value in bad.items() if value]
        if names:
            raise UserError(
                f"loss {', '.join(names)} is not finite: training stopped before that step. Last good checkpoint: "
                f"{last_checkpoint}. Look at the input images, or lower --lr; the same command continues from there"
            )

    def get_current_losses(self) -> dict[str, Tensor]:
        """Losses of the last step: name -> 0-d tensor on the device."""
        return dict(self.losses)

    def get_current_visuals(self) -> dict[str, Tensor]:
        """Pictures of the last step: name -> (B,C,H,W) in [-1,1]."""
        return {name: getattr(self, name).detach() for name in self.visual_names}

    def end_epoch(self) -> None:
        """Move the learning rates on."""
        mean_loss = self.runtime.mean({"G": self._epoch_loss[0] / self._epoch_loss[1].clamp(min=1)})["G"]
        self._epoch_loss.zero_()
        for scheduler in self.schedulers.values():
            scheduler.step(mean_loss) if self.opt.lr_policy == "plateau" else scheduler.step()

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
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()},
            "epoch_loss": self._epoch_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; a learning rate, momenta or --ema that the options changed take effect."""
        for kind in ("networks", "optimizers", "schedulers"):
            for name, part in getattr(self, kind).items():
                part.load_state_dict(state[kind][name])
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"].get(name, state["networks"][name]))
        for name, (rate, momenta) in self._adam.items():
            for group in self.optimizers[name].param_groups:
                group["lr"] *= rate / group["initial_lr"]
                group.update(initial_lr=rate, betas=momenta)
            self.schedulers[name].base_lrs = [rate]
        self._epoch_loss.copy_(state["epoch_loss"])

    def describe(self) -> str:
        """Networks and their sizes, one a line."""
        lines = []
        for name, net in self.networks.items():
            count = sum(p.numel() for p in net.parameters())
            lines.append(f"net{name}: {type(net).__name__}, {count / 1e6:.3f} M parameters")
            if self.opt.verbose:
                lines.append(str(net))
        return "\n".join(lines)


class _Frozen:
    """While entered, the given networks' parameters get no gradients (those of the input still flow through)."""

    def __init__(self, nets: list[nn.Module]) -> None:
        self.parameters = [p for net in nets for p in net.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(True)
