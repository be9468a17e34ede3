"""What strangers may hand to a user: files that want to run code, names that want to escape or to become script."""

import ast
import pickle
import subprocess
from html.parser import HTMLParser

import pytest
import torch

from options import TestOptions, TrainOptions, parse
from tests.helpers import REPO, make_dataset, train_flags
from tests.house import product_files
from tests.test_checkpoint import checkpoint
from util.errors import UserError
from util.logs.sink import Frame
from util.logs.training_page import TrainingPage
from util.logs.visdom_display import VisdomDisplay
from util.pages.gallery import Gallery

SCRIPT = "<img src=x onerror=alert(1)>"
FILES = product_files()


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("name", ["latest_state.pt", "previous_state.pt"])
def test_a_state_never_runs_code(tmp_path, capsys, name):
    first = checkpoint(tmp_path)
    first.folder.mkdir(parents=True)
    (first.folder / name).write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(UserError, match=f"{name} is damaged or not"):
        first.resume()
    torch.save({"model": Evil(), "options": {}}, first.folder / name)
    with pytest.raises(UserError, match="for which code would have to run"):
        first.resume()
    assert "code ran" not in capsys.readouterr().out


class Elements(HTMLParser):
    """All elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def harmless(text: str) -> None:
    """The name is shown, and is no element of the page."""
    elements = Elements(text).found
    assert elements
    for tag, attributes in elements:
        assert "onerror" not in attributes and attributes.get("src") != "x", (tag, attributes)


def test_names_of_pictures_and_runs_become_no_script(tmp_path):
    with Gallery(tmp_path / "results", SCRIPT, {SCRIPT: SCRIPT}) as gallery:
        gallery.add(SCRIPT, {"fake_B": torch.zeros(3, 4, 4)})
    page = TrainingPage(tmp_path / "web", SCRIPT, 16, {SCRIPT: SCRIPT})
    page.start([], 0)
    page.losses([{"epoch": 1, "images": 1, "losses": {SCRIPT: 1.0}}])
    page.pictures(Frame(1, 1, {SCRIPT: torch.zeros(4, 4, 3, dtype=torch.uint8).numpy()}, True))
    page.close()
    for folder in ("results", "web"):
        text = (tmp_path / folder / "index.html").read_text()
        assert "onerror" in text  # it is shown
        harmless(text)


@pytest.mark.parametrize("name", ["../../x", "a/../../x", "/tmp/x", "..", "x/..", "a\nb"])
@pytest.mark.parametrize("options", [TrainOptions, TestOptions])
def test_the_name_of_a_run_cannot_leave_its_folder(tmp_path, name, options):
    make_dataset(tmp_path / "data", 1)
    argv = train_flags(tmp_path, "--name", name) if options is TrainOptions else ["--name", name]
    with pytest.raises(UserError, match="--name"):
        parse(options(), argv)


@pytest.mark.parametrize("flags", ["--epoch ../../x", "--phase ../x", "--epoch /tmp/x"])
def test_results_cannot_leave_their_folder(tmp_path, flags):
    data = make_dataset(tmp_path / "data", 1)
    argv = ["--name", "run", "--dataroot", str(data), "--gpu_ids", "-1", *flags.split()]
    with pytest.raises(UserError, match=flags.split()[0]):
        parse(TestOptions(), argv)


def test_a_suffix_cannot_lead_out_either(tmp_path):
    with pytest.raises(UserError, match="would lead out"):
        parse(TrainOptions(), train_flags(tmp_path, "--suffix", "/../../x"))


def calls(module: str):
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


FORBIDDEN = ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load")


@pytest.mark.parametrize("module", FILES)
def test_nothing_runs_what_a_string_or_a_file_says(module):
    for node, name, keywords in calls(module):
        where = f"{module}:{node.lineno}"
        assert name not in FORBIDDEN, f"{where} calls {name}"
        assert keywords.get("shell", "False") == "False", f"{where} starts a shell"
        loads = name in (
            "torch.load",
            "torch.hub.load_state_dict_from_url",
            "load_state_dict_from_url",
        )
        assert not loads or keywords.get("weights_only") == "True", (
            f"{where} may run code of a file"
        )


def test_servers_listen_on_loopback_unless_told_otherwise():
    """The one server that the project talks of is visdom's; the commands that it prints keep it on this machine."""
    display = VisdomDisplay("run", "http://localhost", 1, "main", None, 4, 64)
    with pytest.raises(ConnectionError, match=r"visdom\.server -bind_local -port 1`"):
        display.start([], 0)
    text = subprocess.run(
        ["git", "grep", "-hI", "visdom.server", "--", "*.md", "*.sh", "*.py", ":!tests"],
        cwd=REPO, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for line in text.splitlines():
        assert "-bind_local" in line or "run_server" in line or "-m visdom.server" not in line, line
    for module in FILES:
        assert "0.0.0.0" not in FILES[module].read_text()
