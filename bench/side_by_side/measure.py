"""Measuring in rounds: every contender once a round, in turning order, so that what the machine does
besides falls on all of them.  A ratio is that of two contenders in one round; its median counts."""
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
        return [theirs / ours if self.time else ours / theirs for ours, theirs in pairs]

    def show(self, contender):
        values = self.values[contender]
        text = f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"
        if contender in self.processor:
            text += f", {number(statistics.median(self.processor[contender]))} µs"
        return text

    def verdicts(self):
        """(peer, ratios, least ratio or None, met) of each peer."""
        for peer in self.values:
            if peer != OURS:
                ratios, least = self.ratios(peer), self.targets.get(peer)
                yield peer, ratios, least, least is None or statistics.median(ratios) >= least


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
