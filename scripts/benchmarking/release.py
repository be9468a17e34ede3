"""A checkout of the released PatchGCL code, imported beside this project under the same process, torch and cuDNN.

Nothing of it is part of this project. Whatever must be changed for it to run is done from outside, and listed.
"""

import contextlib
import importlib
import io
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from scripts.benchmarking import dgl_stand_in
from scripts.benchmarking.contest import Settings
from scripts.benchmarking.ours import Ours
from util.errors import UserError, first_line

PACKAGES = ("models", "util", "options", "data")  # names that both projects use
GRAPH_PATHS = ("auto", "dgl", "stand-in")
README = (
    "--lambda_GNN 0.1 --num_hop 2 --gnn_idt --pooling_num 1 --pooling_ratio 1,0.5 --down_scale 4"
)


class Release:
    """A checkout of the released code, importable beside this project.

    Args:
        folder: the work tree.
        graph_path: "dgl", "stand-in", or "auto": DGL where it imports and runs on the device.

    Attributes:
        patches: every change made to it, in words.

    Raises:
        UserError: no such checkout, or DGL is asked for and cannot be used.
    """

    def __init__(self, folder: Path, settings: Settings, graph_path: str = "auto") -> None:
        if not (folder / "models" / "PatchGCL.py").is_file():
            raise UserError(
                f"--official {folder}: no models/PatchGCL.py there; give a checkout of the "
                "released PatchGCL"
            )

        self.folder, self.settings = folder.resolve(), settings
        self.patches: list[str] = []
        self.graph_path = self._choose_graph_path(graph_path)
        self._modules: dict[str, types.ModuleType] = {}
        self._undo = contextlib.ExitStack()

        if not settings.device.on_gpu:
            self._replace(torch.Tensor, "cuda", _left_where_it_is)
            self._replace(nn.Module, "cuda", _left_where_it_is)
            self.patches.append("CPU: .cuda() of tensors and modules does nothing")

        with self.importable():
            self._see_to_matplotlib()
            self.train_options = importlib.import_module("options.train_options").TrainOptions
            self.create_model = importlib.import_module("models").create_model
            self.head_module = importlib.import_module("models.PatchGCL")
            self.create_dataset = importlib.import_module("data").create_dataset
        if settings.device.on_gpu:
            self._index_on_host()

    def _see_to_matplotlib(self) -> None:
        try:
            import matplotlib.pyplot  # noqa: F401
        except ImportError:
            empty = types.ModuleType("matplotlib")
            sys.modules["matplotlib"] = sys.modules["matplotlib.pyplot"] = empty
            text = "matplotlib, imported and never used, is replaced by an empty module"
            self.patches.append(text)

    def _choose_graph_path(self, asked: str) -> str:
        if asked != "stand-in":
            try:
                return f"dgl {self._try_dgl()}"
            except Exception as error:  # a wheel that does not fit fails in many ways
                if asked == "dgl":
                    text = f"--graph_path dgl: DGL cannot be used here ({first_line(error)})"
                    raise UserError(text) from None

        for name in list(sys.modules):
            if name.split(".")[0] == "dgl":
                del sys.modules[name]
        dgl_stand_in.install()
        self.patches.append(
            "DGL is replaced by a stand-in, scripts/benchmarking/dgl_stand_in.py: graphs are built "
            "from SciPy matrices on the host and copied; self loops and sparse products "
            "(torch.sparse) are made on the device"
        )
        return "stand-in"

    def _try_dgl(self) -> str:
        """Import DGL and use it on the device; returns its version, raises whatever fails."""
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            dgl = importlib.import_module("dgl")
            graph = dgl.graph(([0, 1], [1, 0])).to(self.settings.device.torch)
            dgl.add_self_loop(graph)
        return dgl.__version__

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def _index_on_host(self) -> None:
        """Its pooling indexes a host matrix by device indices, which torch has refused since 1.13."""
        original = self.head_module.top_k_graph

        def on_host(scores: Tensor, matrix: Tensor, nodes: Tensor, keep: int) -> Any:
            return original(scores, matrix.as_subclass(HostIndexed), nodes, keep)

        self._replace(self.head_module, "top_k_graph", on_host)
        text = "pooling: indices are copied to the host where they index a matrix on the host"
        self.patches.append(text)

    def close(self) -> None:
        """Take back what was changed outside the checkout."""
        self._undo.close()

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """While entered, `models`, `util`, `options` and `data` are the released ones."""
        own = {name: module for name, module in sys.modules.items() if _is_shared(name)}
        arguments = sys.argv
        for name in own:
            del sys.modules[name]
        sys.modules.update(self._modules)
        sys.path.insert(0, str(self.folder))
        sys.argv = ["train.py"]

        try:
            yield
        finally:
            sys.argv = arguments
            sys.path.remove(str(self.folder))
            theirs = [name for name in sys.modules if _is_shared(name)]
            self._modules = {name: sys.modules.pop(name) for name in theirs}
            sys.modules.update(own)

    def options(self, data: str = "synthetic", threads: int = 0) -> Any:
        """Its options for the command of its README, at the benchmark's size."""
        settings, flags = self.settings, " ".join(self.settings.flags)
        folder = f"{tempfile.gettempdir()}/released_benchmark"
        parts = (
            README,
            f"--nonzero_th {settings.nonzero_th}",
            f"--crop_size {settings.size} --load_size {settings.size * 286 // 256}",
            f"--batch_size 1 --num_threads {threads}",
            f"--dataroot {data} --name benchmark --checkpoints_dir {folder}",
            f"--gpu_ids {settings.device.gpu_ids} {flags}",
        )

        quiet = contextlib.redirect_stdout(io.StringIO())
        said = io.StringIO()
        with self.importable(), quiet, contextlib.redirect_stderr(said):
            try:
                return self.train_options(cmd_line=" ".join(parts)).parse()
            except SystemExit:
                reason = said.getvalue().strip().splitlines()[-1]
                text = f"--flags {flags}: the released code refuses them ({reason})"
                raise UserError(text) from None

    def model(self, ours: Ours) -> Any:
        """Its model, initialised on a batch as its train.py does, with our VGG16."""
        options = self.options()

        def vgg16(*_: Any, **__: Any) -> nn.Module:
            return original(weights=None)

        original = torchvision.models.vgg16
        torchvision.models.vgg16 = vgg16
        try:
            with self.importable(), contextlib.redirect_stdout(io.StringIO()):
                model = self.create_model(options)
                model.data_dependent_initialize({**ours.batches[0], "A_paths": "", "B_paths": ""})
                model.setup(options)
        finally:
            torchvision.models.vgg16 = original

        wanted = ours.model.vgg.state_dict()
        state = model.netPre.state_dict()
        for key in state:
            place = "features." + key.split(".", 1)[1]
            if place in wanted:
                state[key] = wanted[place]
        model.netPre.load_state_dict(state)
        return model

    def batches(self, data: str, threads: int) -> Iterator[dict[str, Any]]:
        """Batches of its own loader, without end."""
        options = self.options(data, threads)
        with self.importable(), contextlib.redirect_stdout(io.StringIO()):
            dataset = self.create_dataset(options)

        dataset.set_epoch(1)
        while True:
            yield from dataset


class HostIndexed(Tensor):
    """A tensor on the host whose indices may lie on a device."""

    def __getitem__(self, index: Any) -> Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        on_host = tuple(part.cpu() if isinstance(part, Tensor) else part for part in parts)
        return super().__getitem__(on_host)


def _left_where_it_is(thing: Any, *_: Any, **__: Any) -> Any:
    return thing


def _is_shared(module: str) -> bool:
    """Whether both projects may have a module of this name."""
    return module.split(".")[0] in PACKAGES
