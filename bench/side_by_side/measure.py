"""Measuring in rounds: every contender once a round, in turning order, so that what the machine does
besides falls on all of them.  A ratio is that of two contenders in one round; its median counts."""
import math
import statistics

OURS = "tidemark"


class Case:
    """One line of the report.  `unit` of the numbers; larger is better unless `time` is true."""

    def __init__(self, name, unit, time=False):
        self.name, self.unit, self.time = name, unit, time
        self.values = {}                      # contender: one number a round
        self.processor = {}                   # contender: microseconds of processor time a request
        self.targets = {}                     # peer: least ratio

    def against(self, peer, least):
        """Ours over `peer`'s has to be at least `least` (of speeds; times are turned round)."""
        self.targets[peer] = least
        return self

    def add(self, contender, value, processor=None):
        self.values.setdefault(contender, []).append(value)
        if processor is not None:
            self.processor.setdefault(contender, []).append(processor)

    def ratios(self, peer):
        pairs = zip(self.values[OURS], self.values[peer])
        pairs = [(theirs, ours) if self.time else (ours, theirs) for ours, theirs in pairs]
        return [above / below if below else math.inf for above, below in pairs]

    def show(self, contender):
        values = self.values[contender]
        text = f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"
        if contender in self.processor:
            text += f", {number(statistics.median(self.processor[contender]))} µs"
        return text

    def verdicts(self):
        """(peer, ratios, target or None, met) of each peer."""
        for peer in self.values:
            if peer != OURS:
                ratios, least = self.ratios(peer), self.targets.get(peer)
                met = least is None or statistics.median(ratios) >= least
                yield peer, ratios, least and f"≥ {least}", met


class Bar(Case):
    """A number that has to be at least or at most so much by itself, whatever the peer's is."""

    def __init__(self, name, unit, least=None, most=None):
        super().__init__(name, unit, time=most is not None)
        self.least, self.most = least, most

    def verdicts(self):
        ours = statistics.median(self.values[OURS])
        met = ours >= self.least if self.most is None else ours <= self.most
        goal = f"tidemark ≥ {self.least}" if self.most is None else f"tidemark ≤ {self.most}"
        for peer, ratios, _, _ in super().verdicts():
            yield peer, ratios, goal, met


def rounds(count, contenders, measure):
    """measure(name) for each contender, `count` times, beginning with another one each round."""
    names = list(contenders)
    for turn in range(count):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            measure(name)


def number(value):
    if value >= 10000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
