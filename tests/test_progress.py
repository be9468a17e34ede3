"""Counters of a run, counted by hand."""

import time

from util.run.progress import Progress


def test_frequencies_in_images_are_never_missed():
    progress = Progress(1, 1, steps_per_epoch=10, images_per_step=3)
    due = []
    for _ in range(10):
        progress.advance()
        due.append(progress.due(4))
    # images 3 6 9 12 15 18 21 24 27 30 pass 4, 8, 12, -, 16, 20, 24, -, 28
    assert due == [False, True, True, True, False, True, True, True, False, True]


def test_epochs_end_and_go_on():
    progress = Progress(1, 3, steps_per_epoch=2, images_per_step=1)
    seen = []
    for epoch in progress.epochs():
        for _ in range(progress.step, 2):
            progress.advance()
        seen.append(epoch)
        progress.finish_epoch()
    assert seen == [1, 2, 3]
    assert progress.finished
    again = Progress(1, 3, steps_per_epoch=2, images_per_step=1)
    again.load_state_dict(progress.state_dict())
    assert list(again.epochs()) == []


def test_the_last_epoch_is_that_in_which_max_steps_are_done():
    for max_steps, expected in ((1, 5), (2, 5), (3, 6), (16, 12), (17, 12), (None, 12)):
        progress, seen = Progress(5, 12, 2, images_per_step=4, max_steps=max_steps), []
        for epoch in progress.epochs():
            seen.append(epoch)
            for _ in range(2):
                progress.advance()
            progress.finish_epoch()
        assert seen[-1] == progress.final_epoch == expected


def test_max_steps_limits_the_run():
    progress = Progress(1, 100, steps_per_epoch=2, images_per_step=4, max_steps=3)
    assert progress.total_images == 12
    for _ in range(2):
        assert not progress.finished
        progress.advance()
    progress.finish_epoch()
    progress.advance()
    assert progress.finished and list(progress.epochs()) == []


def test_a_run_is_finished_when_its_last_epoch_was_ended():
    """A process may die after the last step; the epoch then comes again, with no step in it."""
    progress = Progress(1, 2, steps_per_epoch=2, images_per_step=1)
    progress.load_state_dict({"epoch": 2, "step": 2, "images": 4, "first_epoch": 1})
    assert progress.all_steps_done and not progress.finished
    for epoch in progress.epochs():
        assert (epoch, progress.step) == (2, 2)
        progress.finish_epoch()
    assert progress.finished and not progress.finished_at_start


def test_late_first_epoch_counts_what_is_left():
    assert Progress(5, 6, steps_per_epoch=10, images_per_step=1).total_images == 20


def test_what_went_before_the_first_epoch_is_no_time_of_steps():
    progress = Progress(1, 1, steps_per_epoch=1, images_per_step=1)
    progress._since -= 10  # of loading
    for _ in progress.epochs():
        progress.advance()
        assert progress.times()["time"] < 5
        progress.finish_epoch()


def test_times_are_per_image_and_reset():
    progress = Progress(1, 1, steps_per_epoch=2, images_per_step=2)

    def slow_batches():
        for _ in range(2):
            time.sleep(0.05)
            yield {}

    for _ in progress.timed(slow_batches()):
        time.sleep(0.1)
        progress.advance()
    times = progress.times()  # 4 images: at least 0.3 s in all, of which 0.1 s of waiting
    assert times["time"] >= 0.3 / 4
    assert 0.1 / 4 <= times["data"] <= times["time"] - 0.2 / 4
    assert 0.1 <= times["step"] <= 2 * times["time"] - 2 * times["data"] + 1e-9
    assert times["images/s"] == 1 / times["time"]
    assert progress.times()["data"] == 0.0
