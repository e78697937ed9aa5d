"""A clock that stands still while this process does, as when the machine sleeps or everything on it is stopped (SIGSTOP): then
nobody is late."""
import threading
import time

TICK, TICK_MAX = 0.05, 0.5


class Clock(threading.Thread):
    def __init__(self):
        super().__init__(name="clock", daemon=True)
        self.now = 0.0
        self._ending = threading.Event()
        self.start()

    def run(self):
        before = time.monotonic()
        while not self._ending.wait(TICK):
            now = time.monotonic()
            self.now += min(now - before, TICK_MAX)
            before = now

    def stop(self):
        self._ending.set()
        self.join()
