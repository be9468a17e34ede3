"""Draw a toy data set with known truth: plain animals (A), striped ones (B), and each test image of A as it is in B.

    python scripts/make_toy_dataset.py --out datasets/toy
    python scripts/make_toy_dataset.py --out datasets/toy_aligned --kind aligned
    python scripts/make_toy_dataset.py --out datasets/toy_single --kind single --size 256

Writes trainA, trainB, testA, testB and testA_truth. No scene of A occurs in B, so the data are unpaired; testA_truth
holds, under the same name, the same scene as in testA with nothing but the coat changed. Aligned: train and test, each
file a scene of the unpaired set's trainA or testA, plain on the left, striped on the right. Single: one image in trainA
and trainB, and trainA's again as testA, with its truth. Stripes follow from the
animal's shape alone, so the true translation is one definite picture. Image i of a folder depends on the seed, the
folder and i, not on how many images are drawn; another --size shows the same scenes larger or smaller.

A scene is drawn in units of its own: the picture is 1 wide and 1 high, the animal is measured in body lengths, and the
limbs are tapered capsules given by their signed distance.
"""

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from util.errors import UserError, exit_status

SUPERSAMPLING = 3  # every pixel is the mean of 3 x 3 samples
JOINT = 0.022  # how softly limbs flow into each other
STRIPE_PERIOD = 0.2  # in body lengths, which is 0.1 of the picture or 5 to 7 pixels at 64
FOLDERS = ("trainA", "trainB", "testA", "testB")

WHITE = np.array([0.95, 0.94, 0.90], np.float32)
BLACK = np.array([0.09, 0.08, 0.09], np.float32)
COATS = np.array([[0.58, 0.27, 0.11], [0.50, 0.21, 0.09], [0.66, 0.35, 0.14], [0.44, 0.20, 0.10]])
GROUNDS = {  # two colours to mix and the noise that mixes them, coarse cells across and down
    "grass": ([0.33, 0.50, 0.17], [0.52, 0.65, 0.27], (20, 20)),
    "meadow": ([0.42, 0.52, 0.20], [0.66, 0.67, 0.34], (14, 24)),
    "savanna": ([0.69, 0.58, 0.30], [0.84, 0.74, 0.45], (16, 26)),
    "sand": ([0.78, 0.66, 0.47], [0.90, 0.80, 0.62], (5, 26)),
}
SKIES = (  # zenith and horizon
    ([0.36, 0.60, 0.86], [0.77, 0.88, 0.95]),
    ([0.45, 0.66, 0.82], [0.93, 0.92, 0.86]),
    ([0.52, 0.62, 0.78], [0.97, 0.84, 0.72]),
)


@dataclass(frozen=True)
class Limb:
    """A capsule from point `a` (radius `ra`) to `b` (radius `rb`); stripes cross it, `phase` periods shifted."""

    a: tuple[float, float]
    b: tuple[float, float]
    ra: float
    rb: float
    phase: float = 0.0

    def measure(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Signed distance, length along the axis, and height above it in radii, for coordinates of any one shape."""
        (ax, ay), (bx, by) = self.a, self.b
        length = math.hypot(bx - ax, by - ay) or 1.0  # a == b is a disc
        along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length
        share = np.clip(along / length, 0, 1)

        # from the nearest point of the axis
        radius = self.ra + (self.rb - self.ra) * share
        beside, above = x - (ax + (bx - ax) * share), y - (ay + (by - ay) * share)
        distance = np.hypot(beside, above) - radius
        return distance, along, np.clip(above / radius, -1, 1)


def noise(rng: np.random.Generator, n: int, cells: tuple[int, int], octaves: int = 3) -> np.ndarray:
    """(n,n) smooth noise in [0,1]: `cells` random values across and down, and finer octaves of half the weight."""
    total, weight = np.zeros((n, n), np.float32), 1.0
    for octave in range(octaves):
        coarse = rng.random((cells[1] << octave, cells[0] << octave)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((n, n), Image.Resampling.BICUBIC)
        total, weight = total + weight * np.asarray(smooth), weight / 2

    return np.clip(total / (2 - 2 * weight), 0, 1)


def mix(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blend colours: `share` (n,n) of `above` over `below`, each (n,n,3) or (3,)."""
    return below + (above - below) * share[..., None]


def smoothstep(low: float, high: float, values: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    share = np.clip((values - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def draw_landscape(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,n,3) sky with clouds, hills on the horizon, and ground that grows coarser towards the viewer."""
    n = len(x)
    horizon = rng.uniform(0.28, 0.48)
    zenith, low = np.array(SKIES[rng.integers(len(SKIES))])
    sky = mix(zenith, low, np.clip(y / horizon, 0, 1))
    sky = mix(sky, np.ones(3), 0.8 * smoothstep(0.52, 0.78, noise(rng, n, (3, 7))))

    dark, light, cells = GROUNDS[str(rng.choice(list(GROUNDS)))]
    texture = noise(rng, n, cells) * 0.7 + noise(rng, n, (2, 3), 1) * 0.3
    ground = mix(np.array(dark), np.array(light), smoothstep(0.25, 0.75, texture))
    ground = ground * (1.06 - 0.16 * np.clip((y - horizon) / (1 - horizon), 0, 1))[..., None]

    height = rng.uniform(0.02, 0.12)
    ridge = horizon - height * noise(rng, n, (4, 1), 2)[:1]
    hills = mix(ground.mean((0, 1)) * 0.75, low, np.full((n, n), rng.uniform(0.25, 0.55)))
    scene = np.where((y > ridge)[..., None], hills, sky)
    return np.where((y > horizon)[..., None], ground, scene)


def pose(rng: np.random.Generator) -> dict[str, list[Limb]]:
    """The limbs of one animal facing right; origin at the middle of its trunk, y downwards, feet at y = 0.62."""
    girth = rng.uniform(0.165, 0.195)
    hip, shoulder = (-0.33, -0.01), (0.28, 0.01)
    grazing = rng.random() < 0.2

    # The neck is lifted from the horizontal, in radians; the head hangs from it.
    lift = rng.uniform(-0.95, -0.6) if grazing else rng.uniform(0.0, 1.05)
    poll = (0.36 + 0.42 * math.cos(lift), -0.03 - 0.46 * math.sin(lift))
    nod = lift - (rng.uniform(0.2, 0.45) if grazing else rng.uniform(1.0, 1.5))
    muzzle = (poll[0] + 0.25 * math.cos(nod), poll[1] - 0.25 * math.sin(nod))

    def leg(at: float, swing: float, thick: float) -> list[Limb]:
        knee, hoof = (at + 0.12 * swing, 0.34), (at + 0.30 * swing, 0.60)
        return [Limb((at, 0.06), knee, thick, 0.052, 0.25), Limb(knee, hoof, 0.046, 0.036, 0.25)]

    swings = rng.uniform(-0.75, 0.75, 4).tolist()
    near = leg(-0.34, swings[0], 0.12) + leg(0.29, swings[1], 0.10)
    far = leg(-0.25, swings[2], 0.11) + leg(0.36, swings[3], 0.09)
    body = [
        Limb(hip, shoulder, girth + 0.015, girth),
        Limb((0.30, -0.02), poll, 0.15, 0.085, 0.1),
        Limb(poll, muzzle, 0.088, 0.052, 0.3),
        Limb(poll, (poll[0] - 0.05, poll[1] - 0.14), 0.035, 0.015),
        *near,
    ]

    # the tail, and the mane across the neck from the throat
    dock, tail, tip = (-0.50, -0.08), (-0.56, 0.05), (-0.60 - rng.uniform(0, 0.14), 0.34)
    crest = (-math.sin(lift), -math.cos(lift))
    withers = (0.30 + 0.15 * crest[0], -0.02 + 0.15 * crest[1])
    mane = Limb(withers, (poll[0] + 0.09 * crest[0], poll[1] + 0.09 * crest[1]), 0.05, 0.035)
    hair = [mane, Limb(dock, tail, 0.03, 0.03), Limb(tail, tip, 0.035, 0.05)]

    dark = []
    for lower in near[1::2] + far[1::2]:
        x, y = lower.b
        dark.append(Limb(lower.b, (x + 0.01, y + 0.02), 0.04, 0.045))
    eye = (poll[0] + 0.07 * math.cos(nod), poll[1] - 0.07 * math.sin(nod) - 0.01)
    dark += [Limb(muzzle, muzzle, 0.05, 0.05), Limb(eye, eye, 0.02, 0.02)]

    return {"far": far, "body": body, "hair": hair, "dark": dark}


def extent(limbs: list[Limb]) -> tuple[float, float]:
    """The smallest and the largest x of some limbs."""
    ends = [(limb.a[0], limb.ra) for limb in limbs] + [(limb.b[0], limb.rb) for limb in limbs]
    return min(x - radius for x, radius in ends), max(x + radius for x, radius in ends)


def union(
    limbs: list[Limb], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Limbs grown into one shape: inside it (n,n bool), stripes in [0,1] (1 dark), and light in [-1,1] from above."""
    total, wave, light = np.full_like(x, 1e-9), np.zeros_like(x), np.zeros_like(x)

    for limb in limbs:
        distance, along, above = limb.measure(x, y)
        weight = np.exp(np.clip(distance / -JOINT, -60, 60))
        total += weight
        wave += weight * np.cos(2 * math.pi * (along / STRIPE_PERIOD + limb.phase))
        light -= weight * above

    return total > 1, smoothstep(-0.25, 0.25, wave / total), light / total


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene twice, (size,size,3) uint8 each: with a plain animal and with the same animal striped."""
    n = size * SUPERSAMPLING
    y, x = (np.mgrid[:n, :n].astype(np.float32) + 0.5) / n
    landscape = draw_landscape(rng, x, y)
    limbs = pose(rng)

    # where the animal stands, and its own coordinates u, v
    left, right = extent(list(chain.from_iterable(limbs.values())))
    length = min(rng.uniform(0.44, 0.57), 0.95 / (right - left))
    facing, feet = rng.choice([-1, 1]).item(), rng.uniform(0.78, 0.92)
    slack = 0.5 * (0.97 - (right - left) * length)
    middle = 0.5 + rng.uniform(-slack, slack) - facing * length * (left + right) / 2
    coat = COATS[rng.integers(len(COATS))] * rng.uniform(0.92, 1.08)
    u, v = (x - middle) * facing / length, (y - feet) / length + 0.62

    shadow = np.exp(-((u / 0.62) ** 4) - ((v - 0.63) / 0.075) ** 2)
    landscape = mix(landscape, landscape * 0.45, 0.75 * shadow)
    shapes = {name: union(parts, u, v) for name, parts in limbs.items()}
    pictures = []
    for striped in (False, True):
        picture = landscape
        for name in ("far", "hair", "body", "dark"):
            inside, stripes, light = shapes[name]
            colour = BLACK + 0.03
            if name in ("far", "body"):
                colour = mix(WHITE, BLACK, stripes) if striped else coat
            shade = (0.72 if name == "far" else 0.97) + 0.16 * light
            picture = mix(picture, colour * shade[..., None], inside.astype(np.float32))

        samples = np.clip(picture, 0, 1).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3)
        pictures.append((samples.mean((1, 3)) * 255 + 0.5).astype(np.uint8))
    return pictures[0], pictures[1]


KINDS = {  # folder of scenes -> the folders that a scene is written to, with what is shown of it
    "unpaired": {
        "trainA": {"trainA": "plain"},
        "trainB": {"trainB": "striped"},
        "testA": {"testA": "plain", "testA_truth": "striped"},
        "testB": {"testB": "striped"},
    },
    "aligned": {"trainA": {"train": "both"}, "testA": {"test": "both"}},
    "single": {
        "trainA": {"trainA": "plain", "testA": "plain", "testA_truth": "striped"},
        "trainB": {"trainB": "striped"},
    },
}


def write_scene(out: Path, kind: str, size: int, seed: int, task: tuple[str, int]) -> None:
    """Draw scene `index` of one folder and write what the kind of data set shows of it."""
    folder, index = task
    rng = np.random.default_rng([seed, FOLDERS.index(folder), index])
    plain, striped = draw_scene(rng, size)

    shown = {"plain": plain, "striped": striped, "both": np.concatenate([plain, striped], axis=1)}
    for target, what in KINDS[kind][folder].items():
        Image.fromarray(shown[what]).save(out / target / f"{index:04d}.png")


def remove_leftover(part: Path) -> None:
    """Remove what an interrupted drawing has left under its temporary name.

    Raises:
        UserError: what is there has another origin.
    """
    if not part.exists():
        return

    known = {
        folder for scenes in KINDS.values() for targets in scenes.values() for folder in targets
    }
    for path in part.rglob("*"):
        folder, *inside = path.relative_to(part).parts
        is_scene = len(inside) == 1 and path.suffix == ".png" and path.stem.isdecimal()
        if folder not in known or (inside and not is_scene):
            raise UserError(
                f"{part} is needed for the time of drawing, and {path} in it is of something else: "
                "move that folder away, or name another --out"
            )
    shutil.rmtree(part)


def write_dataset(out: Path, kind: str, size: int, train: int, test: int, seed: int) -> None:
    """Draw all folders under a temporary name and rename them at the end, so that `out` is never half a data set.

    Raises:
        UserError: something else has the temporary name.
    """
    part = out.with_name(out.name + ".part")
    remove_leftover(part)
    for targets in KINDS[kind].values():
        for folder in targets:
            (part / folder).mkdir(parents=True)

    tasks = []
    for folder in KINDS[kind]:
        count = train if folder.startswith("train") else test
        tasks += [(folder, index) for index in range(count)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write_scene, part, kind, size, seed), tasks, chunksize=8))
    part.rename(out)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, this process's by default."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write; it must not exist yet")
    text = "what is drawn (default: unpaired)"
    add("--kind", choices=tuple(KINDS), default="unpaired", help=text)
    text = "width and height in pixels, at least 32 (default: 64)"
    add("--size", type=int, default=64, help=text)
    text = "training images per domain (default: 200; single: always 1)"
    add("--train", type=int, help=text)
    add("--test", type=int, help="test images per domain (default: 40; single: always 1)")
    add("--seed", type=int, default=0, help="another seed draws other scenes (default: 0)")

    args = parser.parse_args(argv)
    if args.kind == "single":
        args.train = args.test = one_image_each(args)
    args.train = 200 if args.train is None else args.train
    args.test = 40 if args.test is None else args.test

    for flag, least in (("size", 32), ("train", 1), ("test", 1), ("seed", 0)):
        if getattr(args, flag) < least:
            parser.error(f"--{flag} {getattr(args, flag)} is too small: give {least} or more")
    if args.out.exists():
        parser.error(f"--out {args.out} exists already: delete it or name another folder")
    return args


def one_image_each(args: argparse.Namespace) -> int:
    """How many images a single data set has per domain; says so where other numbers were asked for."""
    asked_for = {"--train": args.train, "--test": args.test}
    given = [f"{flag} {count}" for flag, count in asked_for.items() if count is not None]
    if given:
        print(f"note: {' and '.join(given)} without effect: --kind single has one image per domain")
    return 1


def draw(args: argparse.Namespace) -> None:
    """Draw the data set and say what it holds."""
    write_dataset(**vars(args))
    what = {"unpaired": "per domain", "aligned": "pairs:", "single": "per domain"}[args.kind]
    print(
        f"{args.out}: {what} {args.train} training and {args.test} test images "
        f"of {args.size} x {args.size} pixels"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, this process's by default; returns the exit status."""
    args = parse_arguments(argv)
    return exit_status(lambda: draw(args))


if __name__ == "__main__":
    sys.exit(main())
