"""How losses move networks: freezing, accumulation, mixed precision, the guard against bad losses, moving averages.

Nothing here reads a value on the host, so that a whole step can be recorded and replayed (models/step/cuda_graph.py).
What a step changes on the host, the count of steps, changes in `finish_step`, which is never part of a recording.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from data.deferred import images_of
from models.networks.chain import dead_biases
from models.networks.half_copies import HalfCopies
from util.errors import UserError
from util.hardware.beside import Beside
from util.hardware.loss_scale import DynamicLossScale, create_loss_scale
from util.hardware.runtime import Runtime

Terms = Callable[[], dict[str, Tensor]]  # returns the terms of a loss, already weighted
Watch = Callable[[dict[str, Tensor]], None]

IN_A_ROW = "in a row"
MOST_IN_A_ROW = 100  # updates left out, after which the run ends with --on_nonfinite skip too


class Move(NamedTuple):
    """A loss, and the players that go down it.

    `keep_graph`: a later move of the same update goes backward through what this one has computed.
    """

    players: Sequence[str]
    loss: Terms
    keep_graph: bool = False


class NotFinite(NamedTuple):
    """Which losses of a player were not finite, and in how many micro-batches so far."""

    names: tuple[str, ...]
    counts: Tensor  # (names,)


class TrainingStep:
    """The step of a model: micro-batches in, networks moved, losses noted.

    Attributes:
        CYCLE: steps after which the list of updates repeats; `turn` says which of them this one is.
        networks: name -> module, saved as <epoch>_net_<name>.pth.
        averages: name -> moving average of a network.
        memories: name -> module with what else a step remembers, saved in the run's state.
        optimizers: name -> Adam of a player.
        losses: name -> 0-d tensor on the device, of the last step that computed it.
        steps: finished steps since the run began.
        beside: the second queue of a GPU's work.
        watch: what is shown the terms of each loss before the players go down it, while all other networks are frozen.
            It may take gradients of them; scripts/gradient_norms.py does.
    """

    CYCLE = 1

    def __init__(
        self, runtime: Runtime, ema: float, accumulate: int, skip_bad: bool = False
    ) -> None:
        """`skip_bad`: an update whose loss or gradient is not finite is left out, instead of ending the run."""
        self.runtime = runtime
        self.device = runtime.device
        self.networks: dict[str, nn.Module] = {}
        self.averages: dict[str, nn.Module] = {}
        self.memories: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.losses: dict[str, Tensor] = {}
        self.steps = 0
        self.watch: Watch | None = None

        self._ema = ema
        self._accumulate = accumulate
        self._skip_bad = skip_bad
        self._trained_by: dict[str, list[nn.Module]] = {}
        self._clip_norm: dict[str, float] = {}
        self._micro_batches: list[dict[str, Any]] = []
        self._loaded: int | None = None  # which micro-batch the last forward saw
        self._half_copies: HalfCopies | None = None
        self.beside = Beside(runtime.overlap)
        self._loss_scale = create_loss_scale(runtime.amp_dtype, self.device)

        self._not_finite: dict[str, NotFinite] = {}
        self._tripped = torch.zeros((), device=self.device)
        self._skipped = torch.zeros(2, device=self.device)  # updates in all, and in a row
        # sum of G's finite losses, and in how many steps
        self._epoch_loss = torch.zeros(2, dtype=torch.float64, device=self.device)

    @property
    def turn(self) -> int:
        """Which step of the cycle is due: 0 to CYCLE - 1. Each has its own recording."""
        return self.steps % self.CYCLE

    # -- what a method calls ---------------------------------------------------------------------------------------

    def set_input(self, batch: dict[str, Any]) -> None:
        """Take a batch from the loader, cut into the micro-batches of --accumulate."""
        parts = self._accumulate
        self._loaded = None
        batch = {key: images_of(entry) for key, entry in batch.items()}
        self._micro_batches = [
            {
                key: value[k * len(value) // parts : (k + 1) * len(value) // parts]
                for key, value in batch.items()
            }
            for k in range(parts)
        ]

    def update(self, *names: str, loss: Terms) -> None:
        """Step the named optimisers down the sum of the terms that `loss()` returns, all other networks frozen.

        Several micro-batches add up to exactly the gradient of one large batch, for losses that are means over images:
        each player sees all of them before it moves. What compares images of a batch sees one micro-batch at a time.
        A term that is not finite, on any process, stops all further steps on the device itself, so that
        the weights stay good until `check_finite` reports it; with --on_nonfinite skip it stops this one alone.
        """
        self._update([Move(names, loss)])

    def update_at_once(self, *moves: Move, **losses: Terms) -> None:
        """Like an `update` for each move, but all gradients are taken before any player moves.

        A player of several moves takes one step down the sum of their losses. `G=loss` is short for a move of G alone.
        """
        self._update([*moves, *(Move((name,), loss) for name, loss in losses.items())])

    def beside_the_rest(self) -> AbstractContextManager:
        """Where work runs that a GPU may do at the same time as what follows.

        In `forward` it may read all that was computed before. In a loss it may read what `forward` has computed, but
        nothing that came after: neither what an update has changed nor what the loss itself has begun with.
        """
        return self.beside.in_parallel()

    @torch.no_grad()
    def follow(self, follower: nn.Module, leader: nn.Module, momentum: float) -> None:
        """follower <- momentum * follower + (1 - momentum) * leader; whole numbers, such as counters, are copied."""
        kept, new = list(follower.state_dict().values()), list(leader.state_dict().values())
        moving = [index for index, tensor in enumerate(kept) if tensor.is_floating_point()]
        torch._foreach_lerp_([kept[i] for i in moving], [new[i] for i in moving], 1 - momentum)

        for index, tensor in enumerate(kept):
            if not tensor.is_floating_point():
                tensor.copy_(new[index])

    def log(self, name: str, value: Tensor) -> None:
        """Report a 0-d tensor, the mean over the step's micro-batches."""
        if len(self._micro_batches) == 1:
            self.losses[name] = value.detach()
            return

        share = value.detach() / len(self._micro_batches)
        is_first = self._loaded in (None, 0)  # else `losses` holds the step's earlier micro-batches
        self.losses[name] = share if is_first else self.losses[name] + share

    def finish_step(self) -> None:
        """Count a step that is done; whoever runs steps calls this after each, recorded or not."""
        self.steps += 1

    # -- how a step is made ----------------------------------------------------------------------------------------

    def _update(self, moves: list[Move]) -> None:
        names = list(dict.fromkeys(name for move in moves for name in move.players))
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)

        for _ in self._forwarded_micro_batches():
            for move in moves:
                self._go_backward(move)

        self.beside.finish()
        self._step(names)
        self._update_averages(names)

    def _forwarded_micro_batches(self) -> Iterator[int]:
        for index, batch in enumerate(self._micro_batches):
            if self._loaded != index:
                self.load(batch)
                self.beside.forget_mark()
                with self._autocast():
                    self.forward()
                self.beside.mark()
                self._loaded = index
            yield index

    def _go_backward(self, move: Move) -> None:
        with _Frozen(self._others(move.players)):
            with self._autocast():
                terms = move.loss()
            self.beside.join()
            if self.watch:
                self.watch(terms)
            total = sum(terms.values())
            share = self._loss_scale.scale(total / len(self._micro_batches))
            share.backward(retain_graph=move.keep_graph)
        self._record(move.players[0], terms, total.detach())

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        """Where networks run: in the precision of --amp, weights cast network by network."""
        if self.runtime.amp_dtype is None:
            yield
            return

        if self._half_copies is None:
            nets = self.networks.values()
            self._half_copies = HalfCopies(nets, dead_biases(nets))
        with self.runtime.autocast(), self._half_copies.in_use():
            yield

    def _others(self, players: Sequence[str]) -> list[nn.Module]:
        moving = {id(net) for name in players for net in self._trained_by[name]}
        return [net for net in self.networks.values() if id(net) not in moving]

    def _step(self, names: list[str]) -> None:
        parameters = {name: self._with_gradients(name) for name in names}
        every = [parameter for group in parameters.values() for parameter in group]

        self.runtime.average_gradients(every)
        grads = [parameter.grad for parameter in every]
        if self._skip_bad:
            largest = torch.stack(torch._foreach_norm(grads, ord=torch.inf))
            self._note_bad_gradients(largest)
        self.runtime.any(self._tripped)
        skip = self._loss_scale.unscale(grads, self._tripped)

        for name in names:
            if name in self._clip_norm:
                clip_grad_norm_(parameters[name], self._clip_norm[name], foreach=True)
            self.optimizers[name].found_inf = skip  # a fused Adam skips its step where this is 1
            self.optimizers[name].step()

        if self._skip_bad:
            self._count_skipped()

    def _note_bad_gradients(self, largest: Tensor) -> None:
        """A gradient may overflow under a loss that does not; with a loss scale that is how it adapts, no error."""
        if isinstance(self._loss_scale, DynamicLossScale):
            return
        bad = (~torch.isfinite(largest)).any().float()
        torch.maximum(self._tripped, bad, out=self._tripped)

    def _count_skipped(self) -> None:
        """Note whether this update was left out, and let the next one be."""
        bad = self._tripped.clone()
        self._skipped[0].add_(bad)
        self._skipped[1].add_(bad).mul_(bad)
        self._tripped.zero_()
        self.losses["skipped"] = self._skipped[0].clone()

    def _with_gradients(self, player: str) -> list[nn.Parameter]:
        nets = self._trained_by[player]
        return [
            parameter
            for net in nets
            for parameter in net.parameters()
            if parameter.grad is not None
        ]

    def _record(self, player: str, terms: dict[str, Tensor], total: Tensor) -> None:
        """Note a player's losses: for the log, for the guard, for the epoch. Few operators, since all are tiny."""
        named = {**terms, player: total}
        for name, value in named.items():
            self.log(name, value)

        # the guard
        bad = (
            ~torch.isfinite(torch.stack([value.detach().float() for value in named.values()]))
        ).float()
        key = f"{player}: {', '.join(named)}"  # a player may have several losses
        if key not in self._not_finite:
            self._not_finite[key] = NotFinite(tuple(named), torch.zeros_like(bad))
        self._not_finite[key].counts.add_(bad)
        torch.maximum(self._tripped, bad.amax(), out=self._tripped)

        # the epoch, without what was not finite: one such loss would make the mean no number
        if player == "G":
            share = 1 / len(self._micro_batches)
            self._epoch_loss[0].add_(total.nan_to_num(0, 0, 0), alpha=share)
            self._epoch_loss[1].add_(torch.isfinite(total), alpha=share)

    def _update_averages(self, players: list[str]) -> None:
        """EMA: average <- decay * average + (1 - decay) * weights."""
        moved = {id(net) for name in players for net in self._trained_by[name]}
        for name, average in self.averages.items():
            if id(self.networks[name]) in moved:
                self.follow(average, self.networks[name], self._ema)

    # -- what a trial and the loop ask for -------------------------------------------------------------------------

    def changing_tensors(self) -> list[Tensor]:
        """All tensors that a step so far has changed in place, weights included."""
        parts = [
            *self.networks.values(),
            *self.averages.values(),
            *self.memories.values(),
            self._loss_scale,
        ]
        found = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
        for optimizer in self.optimizers.values():
            found += [value for state in optimizer.state.values() for value in state.values()]
        return [
            *found,
            self._tripped,
            self._epoch_loss,
            self._skipped,
            *(bad.counts for bad in self._not_finite.values()),
        ]

    def remember(self) -> Callable[[], None]:
        """Note all that a step changes; what is returned puts it back, to the bit and where it was."""
        tensors, random = self.changing_tensors(), self.runtime.rng_state()
        values = [tensor.detach().clone() for tensor in tensors]  # autograd keeps no stream of this
        unused = [optimizer for optimizer in self.optimizers.values() if not optimizer.state]
        flags = dict(self._not_finite)

        def restore() -> None:
            with torch.no_grad():
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)

            for optimizer in unused:
                optimizer.state.clear()
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)

            self._not_finite = dict(flags)
            self.runtime.set_rng_state(random)

        return restore

    def check_finite(self, last_checkpoint: str) -> None:
        """Raise UserError where losses that were not finite end the run: at the first, or at too many in a row.

        The weights are those before the first update that was left out.
        """
        counts = {}
        for bad in self._not_finite.values():
            for name, count in zip(bad.names, bad.counts, strict=True):
                counts[name] = counts.get(name, 0) + count
        found = self.runtime.mean({**counts, IN_A_ROW: self._skipped[1]})
        in_a_row = found.pop(IN_A_ROW)
        names = ", ".join(name for name, count in found.items() if count)

        if self._skip_bad and in_a_row >= MOST_IN_A_ROW:
            raise UserError(
                f"{in_a_row:.0f} updates in a row were not finite ({names or 'gradients'}) and left out: nothing is "
                f"learned any more. Last good state: {last_checkpoint}. Lower --lr; the same command continues "
                "from there"
            )
        if names and not self._skip_bad:
            raise UserError(
                f"loss {names} is not finite: training stopped before that step. Last good checkpoint: "
                f"{last_checkpoint}. Look at the input images, lower --lr or give --on_nonfinite skip; "
                "the same command continues from there"
            )

    def check_weights(self, last_checkpoint: str) -> None:
        """Raise UserError where a weight, an average or a statistic is not finite, on any process."""
        bad = {}
        for name, net in {**self.networks, **self.averages}.items():
            found = [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
            if found:
                largest = torch.stack(torch._foreach_norm(found, ord=torch.inf))
                bad[f"net{name}"] = (~torch.isfinite(largest)).any().float()

        names = [name for name, value in self.runtime.mean(bad).items() if value]
        if names:
            raise UserError(
                f"weights of {', '.join(names)} are not finite and were not saved. Last good state: "
                f"{last_checkpoint}. Lower --lr, or set --amp off; the same command then continues from there"
            )


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
