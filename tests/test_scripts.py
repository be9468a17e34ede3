"""The shell scripts without a network: set-up with a stand-in for Python, downloads from a server on this machine."""

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from models import find_model, model_names
from options import TestOptions, TrainOptions, parse
from scripts import compare, evaluate, make_toy_dataset
from tests.helpers import REPO

SCRIPTS = sorted((REPO / "scripts").glob("*.sh"))
LAUNCHERS = {
    "horse2zebra": ("horse2zebra", "AtoB"),
    "label2cityscape": ("cityscapes", "BtoA"),
    "map2satellite": ("maps", "BtoA"),
    "summer2winter": ("summer2winter_yosemite", "AtoB"),
    "apple2orange": ("apple2orange", "AtoB"),
}

# Stands for a Python interpreter: runs code for real, but makes empty environments and only notes what pip should do.
FAKE_PYTHON = """#!/usr/bin/env bash
here=$(dirname "$0")
case "$1 $2" in
    "-m venv")
        echo "venv $*" >>"$LOG"
        rm -rf .venv
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python ;;
    "-m pip")
        [[ $3 == --version ]] && exit
        echo "pip $*" >>"$LOG"
        [[ ! -e $FAIL || $* == *--upgrade* ]] || exit 1 ;;
    "- ") cat >/dev/null ;;
    *) exec REAL "$@" ;;
esac
"""


def bash(script: Path | str, *arguments: object, cwd: Path | None = None, **environment: object):
    """Run a script; environment variables are given by name."""
    variables = {
        **os.environ,
        "NO_PROXY": "127.0.0.1",
        **{name: str(value) for name, value in environment.items()},
    }
    command = ["bash", str(script), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=60
    )


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path):
    """A copy of scripts and requirements, in a folder with a space in its name."""
    root = tmp_path / "check out"
    for folder in ("scripts", ".ci"):
        shutil.copytree(REPO / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "requirements.txt", root)
    return root


@pytest.mark.parametrize("script", [*SCRIPTS, REPO / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_are_valid_bash(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


class SetUp:
    """setup.sh in a checkout with the stand-in; `events` are the calls of venv and pip install since last asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.log, self.fail = root, root / "log", root / "fail"
        self.python = executable(root / "python", FAKE_PYTHON.replace("REAL", sys.executable))
        self.seen = 0

    def __call__(self, *arguments: str, **environment: object):
        names = {"PYTHON": self.python, "LOG": self.log, "FAIL": self.fail, **environment}
        return bash(self.root / "scripts" / "setup.sh", *arguments, cwd=Path("/"), **names)

    def events(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        new, self.seen = lines[self.seen :], len(lines)
        return [line for line in new if "--upgrade" not in line]


@pytest.fixture
def setup(checkout):
    return SetUp(checkout)


def test_setup_installs_once(setup):
    result = setup()
    assert result.returncode == 0, result.stderr
    venv, pip = setup.events()
    assert venv.startswith("venv") and "--requirement=requirements.txt" in pip
    assert "--build-constraint" in pip and ".ci/requirements.txt" not in pip
    assert (setup.root / ".venv" / "build-constraint.txt").read_text() == "setuptools<81\n"
    again = setup()
    assert again.returncode == 0 and again.stdout == again.stderr == "" and setup.events() == []


def test_setup_notices_changed_requirements_and_dev(setup):
    setup()
    setup.events()
    assert setup("--dev").returncode == 0
    (pip,) = setup.events()
    assert ".ci/requirements.txt" in pip
    assert setup().returncode == 0 and setup.events() == [], "what --dev installed is kept"
    with open(setup.root / "requirements.txt", "a") as file:
        file.write("six\n")
    setup()
    (pip,) = setup.events()
    assert ".ci/requirements.txt" in pip


def test_setup_starts_afresh_after_an_unfinished_one(setup):
    setup.fail.touch()
    result = setup()
    assert result.returncode == 1 and "error: pip failed" in result.stderr
    setup.fail.unlink()
    setup.events()
    assert setup().returncode == 0
    assert [event.split()[0] for event in setup.events()] == ["venv", "pip"]
    (setup.root / ".venv" / "bin" / "python").unlink()
    assert setup().returncode == 0
    assert [event.split()[0] for event in setup.events()] == ["venv", "pip"]


def test_setup_notices_that_the_folder_moved(setup):
    setup()
    setup.events()
    moved = setup.root.rename(setup.root.with_name("moved"))
    other = SetUp(moved)
    other.seen = setup.seen
    assert other().returncode == 0
    assert [event.split()[0] for event in other.events()] == ["venv", "pip"]


def test_setup_keeps_the_environment_of_another_interpreter_unless_told(setup):
    setup()
    setup.events()
    assert setup(PYTHON="").returncode == 0 and setup.events() == []
    newer = executable(setup.root / "newer", FAKE_PYTHON.replace('exec REAL "$@"', "echo 3.99"))
    assert setup(PYTHON=newer).returncode == 0
    assert [event.split()[0] for event in setup.events()] == ["venv", "pip"]


@pytest.mark.parametrize(
    ("python", "complaint"),
    [
        ("echo 3.8; [[ $2 != *exit* ]]", "is Python 3.8, 3.11 or newer is needed"),
        ("echo 3.12; [[ $2 != *ensurepip* ]]", "apt install python3.12-venv"),
    ],
)
def test_setup_says_what_is_wrong_with_an_interpreter(setup, python, complaint):
    result = setup(PYTHON=executable(setup.root / "other", f"#!/usr/bin/env bash\n{python}\n"))
    assert result.returncode == 1 and complaint in result.stderr and result.stderr.count("\n") == 1
    assert "is not there" in setup(PYTHON="no-such-python").stderr
    assert "--typo" in setup("--typo").stderr


@pytest.fixture
def launcher(checkout, tmp_path):
    """Runs a script of the checkout, whose python commands only note their arguments; returns (result, calls)."""
    log = tmp_path / "calls"
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    note = f'#!/usr/bin/env bash\nexec {sys.executable} -c "{code}" "$@" >>"{log}"\n'
    executable(checkout / ".venv" / "bin" / "python", note)
    (checkout / "scripts" / "setup.sh").write_text("")

    def run(script: str, *arguments: object, cwd: Path = tmp_path, **environment: object):
        log.unlink(missing_ok=True)
        result = bash(checkout / "scripts" / script, *arguments, cwd=cwd, **environment)
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        model = "patchgcl"
        for call in calls:
            model = flag(call, "model") if "--model" in call else model
            check_flags(call, model)
        return result, calls

    return run


def check_flags(call: list[str], model: str) -> None:
    """Let a command understand its flags; test.py takes those of the method that was trained last."""
    command, *flags = call
    if command != "test.py":
        UNDERSTANDS[command](flags)
        return
    options = TestOptions()
    known = options.build_parser(options.peek(["--model", model])).declared()
    for part in flags:
        name = part.partition("=")[0]
        assert not name.startswith("--") or name[2:] in known, f"test.py has no {name} for {model}"


# what a command does with its flags first; it raises where one is unknown
UNDERSTANDS = {
    "train.py": lambda flags: parse(TrainOptions(), flags),
    "scripts/evaluate.py": evaluate.parse_arguments,
    "scripts/compare.py": compare.parse_arguments,
    "scripts/make_toy_dataset.py": make_toy_dataset.parse_arguments,
}


def flag(call: list[str], name: str) -> str:
    """The value that counts: the last one."""
    return call[len(call) - call[::-1].index(f"--{name}")]


def test_there_is_a_launcher_for_every_experiment():
    names = {path.stem for path in SCRIPTS if path.stem.startswith(("train_", "test_"))}
    assert names == {f"{phase}_{name}" for phase in ("train", "test") for name in LAUNCHERS}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_pass_data_direction_and_further_flags(launcher, checkout, tmp_path, name):
    dataset, direction = LAUNCHERS[name]
    data = checkout / "datasets" / dataset
    data.mkdir(parents=True)
    result, (train,) = launcher(f"train_{name}.sh", "--lr", "0.1", "--easy_label", "two words")
    assert result.returncode == 0, result.stderr
    assert train[0] == "train.py" and train[-4:] == ["--lr", "0.1", "--easy_label", "two words"]
    assert (flag(train, "dataroot"), flag(train, "name"), flag(train, "direction")) == (
        str(data),
        name,
        direction,
    )

    result, (test, evaluate) = launcher(
        f"test_{name}.sh", "--epoch=5", "--num_test", 7, INCEPTION="w.pth", FEATURE="768"
    )
    assert result.returncode == 0, result.stderr
    assert test[0] == "test.py" and test[-3:] == ["--epoch=5", "--num_test", "7"]
    assert (
        evaluate[0] == "scripts/evaluate.py"
        and "--epoch=5" in evaluate
        and "--num_test" not in evaluate
    )
    assert flag(evaluate, "dataroot") == flag(test, "dataroot") == str(data)
    sizes = {"--preprocess", "--load_size", "--size"}
    assert not sizes & set(test), "as in training, which is test.py's default"
    assert flag(evaluate, "real") == str(data / ("testB" if direction == "AtoB" else "testA"))
    assert (flag(evaluate, "resize"), flag(evaluate, "feature")) == ("256", "768")
    assert flag(evaluate, "inception") == str(tmp_path / "w.pth")

    other = "BtoA" if direction == "AtoB" else "AtoB"
    flags = ["--phase", "val", "--direction", other, "--gpu_ids", "-1"]
    _, (test, evaluate) = launcher(f"test_{name}.sh", *flags)
    assert flag(evaluate, "real") == str(data / f"val{other[-1]}")
    assert (flag(evaluate, "phase"), flag(evaluate, "gpu_ids")) == ("val", "-1")


def test_launchers_take_data_from_elsewhere(launcher, tmp_path):
    (tmp_path / "my data").mkdir()
    result, (train,) = launcher("train_horse2zebra.sh", DATAROOT="my data")
    assert result.returncode == 0 and flag(train, "dataroot") == str(tmp_path / "my data")
    result, calls = launcher("train_map2satellite.sh")
    assert result.returncode == 2 and calls == [] and result.stderr.count("\n") == 1
    assert "bash scripts/download_dataset.sh maps" in result.stderr


def test_single_images_go_through_every_method_into_one_page(launcher, tmp_path):
    for name in ("pair", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "vgg.pth").touch()
    where = {"DATAROOT": "pair", "PHOTOS": "photos", "VGG": "vgg.pth", "STEPS": 7, "SIDE": 256}
    result, calls = launcher("compare_single.sh", **where, VGG_LAYERS="0,1")
    assert result.returncode == 0, result.stderr
    *trained, strotss, page = calls
    models = ["sincut", "sinpatchgcl", "sinsc", "sinhneg", "wct2"]
    assert [flag(call, "model") for call in trained] == models
    for call in trained:
        learns_from = "photos" if flag(call, "model") == "wct2" else "pair"
        assert call[0] == "train.py" and flag(call, "dataroot") == str(tmp_path / learns_from)
        assert flag(call, "max_steps") == "7"
        assert ("--vgg_weights" in call) == (
            flag(call, "model") in ("sinpatchgcl", "sinsc", "wct2")
        )
    assert strotss[:3] == ["test.py", "--model", "strotss"] and flag(strotss, "phase") == "train"
    assert (flag(strotss, "vgg_layers"), flag(strotss, "long_side")) == ("0,1", "256")
    assert flag(strotss, "vgg_weights") == str(tmp_path / "vgg.pth")
    assert page[:2] == ["scripts/compare.py", "--names"] and page[2:7] == [
        f"single_{m}" for m in models
    ]
    assert flag(page, "with") == "results/single_strotss/train_latest"

    result, (strotss,) = launcher("compare_single.sh", "strotss", DATAROOT="pair")
    assert result.returncode == 0 and "name another method too" in result.stdout
    assert "--vgg_weights" not in strotss
    result, calls = launcher("compare_single.sh", "sincut", "cycle_gan", DATAROOT="pair")
    assert result.returncode == 2 and "cycle_gan is no method of this page" in result.stderr
    result, calls = launcher("compare_single.sh", DATAROOT="nowhere")
    assert result.returncode == 2 and calls == [] and "give DATAROOT=DIR" in result.stderr


def test_every_method_can_be_compared_on_the_toy_set(launcher, checkout):
    for kind in ("unpaired", "aligned", "single"):
        (checkout / "datasets" / f"toy_{kind}").mkdir(parents=True)
    result, calls = launcher("compare_on_toy.sh", WITH="--max_steps 3", SEED=1)
    assert result.returncode == 0, result.stderr
    trained = [call for call in calls if call[0] == "train.py"]
    assert all(call[-2:] == ["--max_steps", "3"] for call in trained)
    methods = {parse(TrainOptions(), call[1:]).model for call in trained}
    assert methods == {name for name in model_names() if find_model(name).TRAINABLE} - {"wct2"}
    assert [call[0] for call in calls[:3]] == ["train.py", "test.py", "scripts/evaluate.py"]


def test_demo_goes_the_whole_way(launcher, checkout):
    result, (toy, train, test, evaluate) = launcher("demo.sh", "--max_steps", "3", SEED="4")
    assert result.returncode == 0, result.stderr
    assert [toy[0], train[0], test[0], evaluate[0]] == [
        "scripts/make_toy_dataset.py", "train.py", "test.py", "scripts/evaluate.py",
    ]  # fmt: skip
    assert train[-2:] == ["--max_steps", "3"] and flag(train, "seed") == "4"
    assert {flag(call, "name") for call in (train, test, evaluate)} == {"toy_seed4"}
    assert "checkpoints/toy_seed4/web/index.html" in result.stdout
    assert "results/toy_seed4/test_latest/index.html" in result.stdout
    (checkout / "datasets" / "toy").mkdir(parents=True)
    result, (train, test, evaluate) = launcher(
        "demo.sh", "--name=mine", "--checkpoints_dir", "there", "--gpu_ids", "-1"
    )
    assert "there/mine/web/index.html" in result.stdout
    assert (
        "--name=mine" in test
        and flag(test, "gpu_ids") == "-1"
        and flag(test, "checkpoints_dir") == "there"
    )
    assert flag(evaluate, "name") == "mine" and flag(evaluate, "checkpoints_dir") == "there"
    assert flag(evaluate, "gpu_ids") == "-1"


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; goes on in the middle of a file when asked to, unless the server is `simple`."""

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        path = Path(self.translate_path(self.path))
        if self.server.simple or not self.server.ranges[-1] or not path.is_file():
            return super().do_GET()
        data, start = (
            path.read_bytes(),
            int(self.server.ranges[-1].removeprefix("bytes=").rstrip("-")),
        )
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:])
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    """A server on this machine, of `server.folder` at `server.address`; `server.ranges` lists what was asked for."""
    folder = tmp_path / "served"
    folder.mkdir()

    def handler(*arguments):
        return RangeHandler(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        served.folder, served.ranges, served.simple = folder, [], False
        served.address = f"http://127.0.0.1:{served.server_address[1]}"
        thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


IMAGES = [
    f"{folder}/{i}.jpg" for folder in ("trainA", "trainB", "testA", "testB") for i in range(3)
]


def make_zip(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, os.urandom(2000))
    return path


def download(server, out: Path, name: str = "maps"):
    return bash(REPO / "scripts" / "download_dataset.sh", name, out, DATASETS_URL=server.address)


def test_download_unpacks_and_counts(server, tmp_path):
    make_zip(server.folder / "maps.zip", *(f"maps/{name}" for name in IMAGES))
    out = tmp_path / "my data"
    result = download(server, out, "map2satellite")
    assert result.returncode == 0, result.stderr
    assert {str(path.relative_to(out / "maps")) for path in out.rglob("*.jpg")} == set(IMAGES)
    assert f"3 {out / 'maps' / 'trainA'}" in result.stdout
    assert [path.name for path in out.iterdir()] == ["maps"]
    requests = len(server.ranges)
    again = download(server, out)
    assert (
        again.returncode == 0
        and "is there already" in again.stdout
        and len(server.ranges) == requests
    )


def test_a_zip_may_name_the_folder_itself(server, tmp_path):
    make_zip(server.folder / "maps.zip", "./", *IMAGES)
    result = download(server, tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "maps").rglob("*.jpg"))) == len(IMAGES)


@pytest.mark.parametrize("simple", [False, True], ids=["resumable", "not resumable"])
def test_download_goes_on_with_a_partial_file(server, tmp_path, simple):
    data = make_zip(server.folder / "maps.zip", *IMAGES).read_bytes()
    (tmp_path / "maps.zip.part").write_bytes(data[: len(data) // 2])
    server.simple = simple
    result = download(server, tmp_path)
    assert result.returncode == 0, result.stderr
    assert server.ranges[0] == f"bytes={len(data) // 2}-" and len(server.ranges) == 1 + simple
    assert len(list((tmp_path / "maps").rglob("*.jpg"))) == len(IMAGES)


def test_a_truncated_download_is_no_data_set(server, tmp_path):
    path = make_zip(server.folder / "maps.zip", *IMAGES)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3000])
    result = download(server, tmp_path / "out")
    assert result.returncode == 1 and "is not a whole zip file" in result.stderr
    assert not (tmp_path / "out" / "maps").exists()
    path.write_bytes(whole)
    assert download(server, tmp_path / "out").returncode == 0


def test_damaged_data_are_not_unpacked(server, tmp_path):
    path = make_zip(server.folder / "maps.zip", *IMAGES)
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    path.write_bytes(data)
    result = download(server, tmp_path / "out")
    assert (
        result.returncode == 1
        and "CRC" in result.stderr
        and not (tmp_path / "out" / "maps").exists()
    )


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "maps/../../evil.jpg", "/tmp/evil.jpg", "..\\evil.jpg"]
)
def test_a_zip_that_leaves_its_folder_is_refused(server, tmp_path, name):
    make_zip(server.folder / "maps.zip", *IMAGES, name)
    result = download(server, tmp_path / "a" / "b")
    assert result.returncode == 1 and "would leave the folder" in result.stderr
    assert not list(tmp_path.rglob("*.jpg")) and not Path("/tmp/evil.jpg").exists()


def test_a_zip_without_domains_is_no_data_set(server, tmp_path):
    make_zip(server.folder / "maps.zip", "maps/a.jpg")
    result = download(server, tmp_path / "out")
    assert (
        result.returncode == 1
        and "does not hold trainA" in result.stderr
        and not (tmp_path / "out/maps").exists()
    )


def test_without_a_network_a_zip_may_be_put_there(server, tmp_path):
    server.address = "http://127.0.0.1:9"
    result = download(server, tmp_path)
    assert result.returncode == 1 and "without a network, put maps.zip into" in result.stderr
    archive = make_zip(tmp_path / "maps.zip", *IMAGES)
    assert download(server, tmp_path).returncode == 0
    assert (tmp_path / "maps" / "trainA").is_dir() and archive.exists(), "the user's file is kept"


def test_names_and_licences(server, tmp_path):
    result = download(server, tmp_path / "out", "horses")
    assert (
        result.returncode == 1 and "horse2zebra" in result.stderr and "monet2photo" in result.stderr
    )
    for name in ("cityscapes", "label2cityscape"):
        result = download(server, tmp_path / "out", name)
        assert (
            result.returncode == 1
            and "licence" in result.stderr
            and "cityscapes-dataset.com" in result.stderr
        )
    assert bash(REPO / "scripts" / "download_dataset.sh").returncode == 1
    with contextlib.suppress(FileNotFoundError):
        assert not list((tmp_path / "out").iterdir())
    assert server.ranges == []
