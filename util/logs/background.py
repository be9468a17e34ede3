"""One thread serves the logs that may be slow, so that training never waits for them."""

from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Thread

from util.logs.sink import Frame, Sink

# displays that may wait for the page and other logs; a ninth pushes out the oldest
WAITING_FRAMES = 8
CLOSE_SECONDS = 60.0  # how long the end of a run waits for a sink that hangs


class BackgroundWriter:
    """One thread that serves the sinks. Losses are never dropped, they are handed over together; frames can be."""

    name = "pictures"

    def __init__(self, sinks: Sequence[Sink], guard: Callable, say: Callable[[str], None]) -> None:
        """`guard(sink, action, *arguments)` runs an action of a sink and switches the sink off if it raises."""
        self.sinks, self.guard, self.say = sinks, guard, say

        # what waits for the thread
        self.records: list[dict] = []
        self.frames: deque[Frame] = deque()
        self.dropped = 0
        self.closing = False

        self.news = Condition()
        self.thread = Thread(target=self._run, name="visualizer", daemon=True)

    def start(self, records: Sequence[dict], images_done: int) -> None:
        """Start the thread; its first work is to start the sinks."""
        self.start_arguments = (records, images_done)
        self.thread.start()

    def add_record(self, record: dict) -> None:
        """Hand over one record; returns at once."""
        with self.news:
            self.records.append(record)
            self.news.notify()

    def add_frame(self, frame: Frame) -> bool:
        """Hand over one frame; returns at once, False if the oldest waiting frame had to go for it."""
        with self.news:
            full = len(self.frames) == WAITING_FRAMES
            if full:
                self.frames.popleft()
                self.dropped += 1
            self.frames.append(frame)
            self.news.notify()

        return not full

    def close(self) -> bool:
        """Let the thread finish what waits; False if it hangs."""
        with self.news:
            self.closing = True
            self.news.notify()

        if self.thread.ident is not None:
            self.thread.join(CLOSE_SECONDS)
        return not self.thread.is_alive()

    def _run(self) -> None:
        for sink in self.sinks:
            where = self.guard(sink, sink.start, *self.start_arguments)
            if where:
                self.say(where)

        while True:
            records, frame = self._take_over()
            if not records and frame is None:
                break
            for sink in self.sinks:
                if records:
                    self.guard(sink, sink.losses, records)
                if frame is not None:
                    self.guard(sink, sink.pictures, frame)

        for sink in self.sinks:
            self.guard(sink, sink.close)

    def _take_over(self) -> tuple[list[dict], Frame | None]:
        """Wait for news: all records and the oldest frame; nothing at the end."""
        with self.news:
            self.news.wait_for(lambda: self.records or self.frames or self.closing)

            records, self.records = self.records, []
            frame = self.frames.popleft() if self.frames else None
            return records, frame
