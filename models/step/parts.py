"""The parts of a method: networks, optimisers and memories are registered here, saved, taken up again and counted."""

import copy
import warnings
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.recompute import recompute_blocks
from models.step.training_step import TrainingStep
from util.errors import UserError
from util.hardware.batch_norm import has_batch_norm
from util.hardware.runtime import Runtime
from util.run.schedule import BY_STEP, create_scheduler, rate_now


class Parts(TrainingStep):
    """The parts of a method, and their state: all that the next step depends on.

    Attributes:
        opt: the options of the run.
        is_train: whether they are to train.
        schedulers: player -> what moves its learning rate.
    """

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        training = opt.is_train
        super().__init__(
            runtime,
            ema=opt.ema if training else 0,
            accumulate=opt.accumulate if training else 1,
            skip_bad=training and opt.on_nonfinite == "skip",
        )
        self.opt = opt
        self.is_train = training
        self.schedulers: dict[str, Any] = {}

        # what was asked for, whatever a saved state says
        self._adam: dict[str, dict[str, Any]] = {}
        self._recompute = training and opt.grad_checkpoint
        self._recomputed = 0  # blocks
        self._prepared = False
        self._followers: set[str] = set()  # memories that are the same on all processes

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
            self.averages[name] = self.runtime.copy_of(net).requires_grad_(False)
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

    # -- learning rates --------------------------------------------------------------------------------------------

    def finish_step(self) -> None:
        """Count a step that is done, and move learning rates on that fall by steps."""
        super().finish_step()
        if self.opt.lr_policy in BY_STEP:
            for scheduler in self.schedulers.values():
                scheduler.step()

    def end_epoch(self) -> None:
        """Move learning rates on that fall by epochs."""
        total, steps = self._epoch_loss
        found = self.runtime.mean({"total": total, "steps": steps})
        self._epoch_loss.zero_()
        if self.opt.lr_policy in BY_STEP:
            return

        with warnings.catch_warnings():
            # torch misses a step before: a run may go on with the end of an epoch, whose steps an earlier start did
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            for scheduler in self.schedulers.values():
                if self.opt.lr_policy != "plateau":
                    scheduler.step()
                elif found["steps"]:  # else no loss was finite: there is nothing to compare
                    scheduler.step(found["total"] / found["steps"])

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first optimiser."""
        return float(next(iter(self.optimizers.values())).param_groups[0]["lr"])

    # -- state -----------------------------------------------------------------------------------------------------

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
            "epoch_loss": self.runtime.gather(self._epoch_loss.cpu()),
            "skipped": self._skipped,
            "steps": self.steps,
            "prepared": self._prepared,
        }

    def _own_memories(self) -> dict[str, Any]:
        """What this process remembers; what is the same on all, only on the main one.

        On the host: a tensor on a GPU comes out at the other end on that GPU, where the main process has no business,
        or which its machine does not have.
        """
        kept = {}
        for name, module in self.memories.items():
            if self.runtime.is_main or name not in self._followers:
                kept[name] = on_host(module.state_dict())
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

        self._epoch_loss.copy_(self._own_epoch_loss(state["epoch_loss"]))
        self._skipped.copy_(state["skipped"])
        self.steps, self._prepared = state["steps"], state["prepared"]

    def _own_epoch_loss(self, saved: Tensor | list[Tensor]) -> Tensor:
        """What this process has added up of the epoch (2,); the mean of all where their number was another.

        Earlier versions saved that of the main process alone.
        """
        parts = [saved] if isinstance(saved, Tensor) else saved
        if len(parts) == self.runtime.world_size:
            return parts[self.runtime.rank]
        return torch.stack(parts).mean(0)

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


def on_host(state: Any) -> Any:
    """A state with its tensors, of any shape, in the host's memory, those of extra states in it too."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        moved = copy.copy(state)  # beside its entries it notes versions of layers
        moved.update({key: on_host(value) for key, value in state.items()})
        return moved
    return state


def bytes_of(tensors: Iterable[Any]) -> int:
    """What tensors take in memory; other values take none."""
    return sum(x.numel() * x.element_size() for x in tensors if isinstance(x, Tensor))
