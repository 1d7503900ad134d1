"""Messages of one subscription, fetched ahead by a thread."""

import threading
from collections.abc import Callable

from transforms.io.broker import Received

_PAUSE_S, _RETRY_S = 0.02, 0.2


class Intake:
    """Pulls again and again, and holds what came until it is taken: whoever takes it waits for no round trip.

    A pull ends with the first messages there are, so that a pause goes before the next while something is held: what comes
    one by one is fetched together.

    Memory: no pull starts while `most` messages are held, so that there are twice as many at the most.
    """

    def __init__(self, pull: Callable[[], list[Received]], most: int, name: str) -> None:
        """Start to pull.

        Args:
          pull: returns messages as soon as there are any, and none after a while.
          most: where it stops to pull.
        """
        self._pull, self._most = pull, most
        self._held: list[Received] = []
        self._failed: Exception | None = None
        self._changed, self._closed = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._fill, name=name, daemon=True)
        self._thread.start()

    def take(self, most: int, wait_s: float) -> list[Received]:
        """Return what is held, `most` messages at most, as soon as there is any, or none after `wait_s`.

        Raises:
          Exception: what the last pull raised, once, and after what was held; nothing when the next one is underway.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._failed, wait_s)
            taken, self._held = self._held[:most], self._held[most:]
            failed = None
            if not taken:
                failed, self._failed = self._failed, None
            self._changed.notify_all()
        if failed:
            raise failed
        return taken

    def close(self) -> list[Received]:
        """Start no more pulls; return what nobody took."""
        self._closed.set()
        with self._changed:
            left, self._held = self._held, []
            self._changed.notify_all()
        return left

    def join(self, wait_s: float) -> None:
        """Wait for the pull that is underway."""
        self._thread.join(wait_s)

    def _fill(self) -> None:
        while self._ready():
            try:
                found = self._pull()
            except Exception as error:
                self._fail(error)
            else:
                with self._changed:
                    self._held += found
                    self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        """Tell whoever asks before it is tried again."""
        with self._changed:
            self._failed = error
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed.is_set() or self._failed is None, _RETRY_S)
            self._failed = None

    def _ready(self) -> bool:
        """Wait until there is a reason to pull; False when there never will be."""
        if self._held:
            self._closed.wait(_PAUSE_S)
        with self._changed:
            self._changed.wait_for(lambda: self._closed.is_set() or len(self._held) < self._most)
        return not self._closed.is_set()
