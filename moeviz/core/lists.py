"""Policies that a score cannot say: who leaves depends on lists of residents and of those who left.

A class of `Lists` keeps what such a policy knows of one pool: an object is told what happens to the pool, and
asked who leaves and why. It is registered under a name by `moeviz.core.policies.policy`, as a score is.

    lists = Arc(slots=2)
    lists.missed(7), lists.came(7), lists.used(7, again=False)
    lists.leaves(stays=())      # 7
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from moeviz.core.owncode import short
from moeviz.errors import PolicyError


class Lists:
    """What a policy that a score cannot say keeps of one pool. Experts are named by their place, a number.

    The order of things is that of the event rule: of each miss `missed`, `leaves` if nobody's slot
    is free, and `came`; then of every member of the event, weakest first, `used`. A pre-fetched expert is
    only `missed` and `came`; when it is needed it is used again.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def missed(self, one: int) -> None:
        """An expert is not there and is going to come."""

    def leaves(self, stays: Container[int]) -> int:
        """Takes out and returns who leaves for the one that was missed last; -1 where all of the residents
        are among `stays`."""
        raise NotImplementedError("it has no method leaves")

    def came(self, one: int) -> None:
        """An expert came into a slot."""
        raise NotImplementedError("it has no method came")

    def used(self, one: int, again: bool) -> None:
        """A resident was needed. `again`: False where it came for this very use."""
        raise NotImplementedError("it has no method used")

    def why(self, one: int) -> str:
        """Why a resident would leave now, in words that follow "Expert 3 left: "; without a semicolon."""
        raise NotImplementedError("it has no method why")


# The lists are plain dicts, which are several times quicker than OrderedDict: who is put in is last, and the
# first is the one that was put in longest ago.


def _first(among: Iterable[int], stays: Container[int]) -> int:
    """-1 where all stay."""
    for one in among:  # quicker than next() of a generator
        if one not in stays:
            return one
    return -1


def _drop_first(of: dict[int, None]) -> None:
    del of[next(iter(of))]


def wrong_victim(name: str) -> PolicyError:
    """Lists that name somebody who is not there, or nobody where somebody could leave."""
    return PolicyError(
        f"policy {short(name)!r} lets nobody leave, or somebody who is not resident or has to stay. Let its "
        "leaves() give a resident that is not among those who stay."
    )


class Arc(Lists):
    """Adaptive replacement cache: residents used once and residents used again are two lists, each in the
    order of their last use. How many slots are meant for those used once grows when somebody comes back who
    left that list, and shrinks when somebody comes back who left the other; so it settles between recency and
    frequency by itself. As many more are remembered as there are slots. Megiddo and Modha, FAST 2003, figure
    4. Where the oldest of a list may not leave now, the next one does."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.once: dict[int, None] = {}  # residents, T1 in the paper; oldest first
        self.again: dict[int, None] = {}  # residents, T2
        self.left_once: dict[int, None] = {}  # remembered, B1
        self.left_again: dict[int, None] = {}  # remembered, B2
        self.meant = 0.0  # slots for `once`, p in the paper
        self._known = self._back = False  # who was missed last is remembered; had left `again`
        self._forget = False  # who leaves for it is not remembered

    def missed(self, one: int) -> None:
        once, again, left_once, left_again = self.once, self.again, self.left_once, self.left_again
        self._known, self._back, self._forget = True, False, False
        if one in left_once:
            self.meant = min(self.meant + max(len(left_again) / len(left_once), 1.0), float(self.slots))
            del left_once[one]
        elif one in left_again:
            self.meant = max(self.meant - max(len(left_once) / len(left_again), 1.0), 0.0)
            self._back = True
            del left_again[one]
        else:
            self._known = False
            of_once = len(once) + len(left_once)
            if of_once == self.slots:
                self._forget = not left_once
                if left_once:
                    _drop_first(left_once)
            elif of_once + len(again) + len(left_again) == 2 * self.slots:
                _drop_first(left_again)

    def leaves(self, stays: Container[int]) -> int:
        many, meant = len(self.once), self.meant
        of_once = many > meant or (self._back and many == meant) or self._forget
        for _ in range(2):
            residents = self.once if of_once else self.again
            if (one := _first(residents, stays)) >= 0:
                del residents[one]
                if not self._forget:
                    (self.left_once if of_once else self.left_again)[one] = None
                return one
            of_once = not of_once
        return -1

    def came(self, one: int) -> None:
        (self.again if self._known else self.once)[one] = None

    def used(self, one: int, again: bool) -> None:
        before = self.again if one in self.again else self.once
        del before[one]
        (self.again if again else before)[one] = None

    def why(self, one: int) -> str:
        how = "used once" if one in self.once else "used again"
        return (
            f"last used longest ago of those {how} that could leave, as of {self.slots} slots those used "
            f"once hold {len(self.once)}, and {self.meant:.3g} are meant for them"
        )


class S3Fifo(Lists):
    """Three queues in order of arrival: whoever comes enters the small one, a tenth of the slots, and at its
    end leaves, unless it was used twice meanwhile: then it moves to the main one. There each use, up to
    three, buys another round. Who left the small one is remembered for a while and enters the main one if it
    comes back. Yang, Zhang, Qiu, Yue, Vinayak, SOSP 2023, algorithm 1; as in its authors' libCacheSim (which
    fills its main queue first while nobody has left) one leaves for each that comes. Who may not leave now is
    passed over and keeps its place."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.small: dict[int, int] = {}  # uses since it came, at most 3; oldest first
        self.main: dict[int, int] = {}  # uses that are left
        self.left: dict[int, None] = {}  # remembered: as many as the main queue has slots
        self._known = False  # who was missed last is remembered

    def missed(self, one: int) -> None:
        self._known = one in self.left
        self.left.pop(one, None)

    def leaves(self, stays: Container[int]) -> int:
        small = 10 * len(self.small) >= self.slots
        # a turn may move all of the small queue to the main one
        for _ in range(3):
            one = self._of_small(stays) if small else self._of_main(stays)
            if one >= 0:
                return one
            small = not small
        return -1

    def _of_small(self, stays: Container[int]) -> int:
        small, left = self.small, self.left
        while (one := _first(small, stays)) >= 0:
            if small.pop(one) < 2:
                left[one] = None
                if len(left) > self.slots * 9 // 10:
                    _drop_first(left)
                return one
            self.main[one] = 0
        return -1

    def _of_main(self, stays: Container[int]) -> int:
        main = self.main
        while (one := _first(main, stays)) >= 0:
            uses = main[one]
            if not uses:
                del main[one]
                return one
            del main[one]
            main[one] = uses - 1
        return -1

    def came(self, one: int) -> None:
        (self.main if self._known else self.small)[one] = 0

    def used(self, one: int, again: bool) -> None:
        queue = self.small if one in self.small else self.main
        if again and queue[one] < 3:
            queue[one] += 1

    def why(self, one: int) -> str:
        if one in self.main:
            return "the first of the main queue, as it goes round, whose uses were spent"
        if self.small[one] < 2:
            return (
                "first in the queue of newcomers of all that could leave, and "
                f"{'used once' if self.small[one] else 'not used'} again since it came "
                "(twice would have kept it)"
            )
        return (
            "moved up from the newcomers, and the first of the main queue, as it goes round, whose uses were "
            "spent"
        )
