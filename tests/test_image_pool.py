"""The pool of earlier images against a list, its statistics, its state, and its complaint about sizes."""

import pytest
import torch

from models.networks.image_pool import ImagePool
from tests.test_models import HostTraffic
from util.errors import UserError
from util.run.weights import atomic_save, read_file


def numbered(first: int, count: int = 1) -> torch.Tensor:
    """Images (count,1,1,1) that hold their own number."""
    return torch.arange(first, first + count, dtype=torch.float32).view(count, 1, 1, 1)


class ListPool:
    """The release's behaviour with a Python list, one image at a time, drawing as ImagePool does."""

    def __init__(self, size: int) -> None:
        self.size, self.kept = size, []

    def query(self, numbers: list[float]) -> list[float]:
        returned = []
        for number in numbers:
            slot, coin = int(torch.randint(self.size, (1,))), float(torch.rand(1))
            if len(self.kept) < self.size:
                self.kept.append(number)
                returned.append(number)
            elif coin < 0.5:
                returned.append(self.kept[slot])
                self.kept[slot] = number
            else:
                returned.append(number)
        return returned


@pytest.mark.parametrize("known", [True, False])
def test_it_returns_what_a_list_would(known):
    pool, reference = ImagePool(7, (1, 1, 1) if known else None), ListPool(7)
    first = 0
    for step in range(200):
        count = 1 + step % 3
        torch.manual_seed(step)
        got = pool(numbered(first, count)).flatten().tolist()
        torch.manual_seed(step)
        assert got == reference.query([float(n) for n in range(first, first + count)]), step
        first += count
    assert pool.images.flatten().tolist() == reference.kept


def test_it_fills_first_and_passes_everything_on_until_then():
    pool = ImagePool(50)
    for n in range(50):
        assert pool(numbered(n)).item() == n
    assert pool.images.flatten().tolist() == list(range(50)) and pool.filled.item() == 50


def test_half_of_the_images_are_old_and_their_ages_are_geometric():
    """An image leaves with probability 1/(2*50) a step, so the age of those returned has mean 100 and deviation 100."""
    pool = ImagePool(50)
    ages = []
    for n in range(6050):
        ages.append(n - pool(numbered(n)).item())
    late = torch.tensor(ages[1050:])
    old = late[late > 0]
    assert 0.47 < len(old) / len(late) < 0.53  # 4 deviations of a fair coin
    assert 92 < old.mean() < 108 and 90 < old.std() < 112
    assert old.min() == 1


def test_an_image_of_the_same_batch_can_come_back():
    pool = ImagePool(1)
    pool(numbered(0))
    returned = torch.cat([pool(numbered(100 * k, 4)).flatten() - 100 * k for k in range(1, 60)])
    seen = {
        (place, int(n))
        for place, n in enumerate(returned.view(-1, 4).T.tolist())
        for n in n
        if n >= 0
    }
    assert seen == {(a, b) for a in range(4) for b in range(a + 1)}


@pytest.mark.parametrize("before", [0, 3, 9])
def test_it_never_waits_for_the_device(before):
    pool = ImagePool(5, (1, 1, 1))
    for n in range(before):
        pool(numbered(n))
    images = numbered(before, 3)
    with HostTraffic() as traffic:
        pool(images)
    assert traffic.operators > 20 and traffic.seen == []


def test_size_zero_passes_on_and_nothing_carries_gradients():
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    off = ImagePool(0, (3, 4, 4))(images)
    assert torch.equal(off, images) and not off.requires_grad
    assert not ImagePool(1)(images * 2).requires_grad
    half = ImagePool(1)(images.detach().bfloat16())
    assert half.dtype == torch.bfloat16 and torch.equal(half[0], images[0].bfloat16())


def test_what_is_returned_does_not_change_later():
    pool = ImagePool(1)
    first = pool(numbered(0))
    later = [pool(numbered(n)) for n in range(1, 20)]
    values = [x.item() for x in later]
    assert first.item() == 0 and len(set(values)) == 19 and max(values) == 19


@pytest.mark.parametrize("before", [0, 3, 12])
@pytest.mark.parametrize("known", [True, False])
def test_a_saved_pool_goes_on_exactly(tmp_path, before, known):
    shape = (1, 1, 1) if known else None
    pool = ImagePool(5, shape)
    for n in range(before):
        pool(numbered(n))
    atomic_save(pool.state_dict(), tmp_path / "pool.pt")
    torch.manual_seed(5)
    expected = [pool(numbered(n)).item() for n in range(before, before + 30)]
    again = ImagePool(5, shape)
    again.load_state_dict(read_file(tmp_path / "pool.pt"))
    torch.manual_seed(5)
    assert [again(numbered(n)).item() for n in range(before, before + 30)] == expected


@pytest.mark.parametrize(("size", "kept"), [(2, 2), (5, 5), (9, 5), (0, 0)])
def test_another_pool_size_takes_what_it_can(size, kept):
    pool = ImagePool(5)
    pool(numbered(1, 5))
    other = ImagePool(size)
    other.load_state_dict(pool.state_dict())
    assert other.filled.item() == kept
    if kept:
        assert other.images.flatten()[:kept].tolist() == list(range(1, kept + 1))
    larger = ImagePool(5, (1, 8, 8))  # another --crop_size: earlier images are of no use
    larger.load_state_dict(pool.state_dict())
    assert larger.filled.item() == 0 and larger(torch.ones(1, 1, 8, 8)).sum() == 64


def test_another_image_size_is_refused_in_one_line():
    pool = ImagePool(5)
    pool(torch.rand(1, 3, 8, 4))
    with pytest.raises(
        UserError, match=r"--pool_size 5 keeps images of one size, 4x8 so far, but now one is 8x8"
    ):
        pool(torch.rand(1, 3, 8, 8))
