"""The rollout workers as one: shares prompts out, survives the death of workers, takes in new ones.

A worker is STARTING until its engine stands, STALE until it has the current weights, HEALTHY while
it has them. Only healthy ones get work. What a dead one held goes to another, with the same seed:
so the samples are those of a run in which nobody died, whoever generates them.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray

from medgpt_ray.actors.learner import LearnerGroup
from medgpt_ray.actors.sync.audit import compare
from medgpt_ray.actors.wait import (
    RoleDied,
    RunFailed,
    cause,
    died,
    first_and_more,
    gone,
    wait,
)
from medgpt_ray.config.schema import RlRun
from medgpt_ray.types import Completion, Prompt

Spawn = Callable[[int], Any]
"""Number of a worker -> its new actor."""
Asked = Callable[[], int | None]
"""How many workers the user asked for in mid-run, if at all."""


@dataclass
class Member:
    """One rollout worker."""

    number: int
    actor: Any
    ready: ray.ObjectRef
    state: Literal["STARTING", "STALE", "HEALTHY"] = "STARTING"

    @property
    def name(self) -> str:
        return f"rollout worker {self.number}"


@dataclass(frozen=True)
class Audit:
    """Of one sync: what the policy's weights were, and what the workers will say of theirs."""

    version: int
    digests: dict[str, str]
    calls: dict[str, ray.ObjectRef]


class RolloutPool:
    """All rollout workers, and the policy they follow."""

    def __init__(self, config: RlRun, policy: LearnerGroup, spawn: Spawn, asked: Asked) -> None:
        self.config, self.policy, self.spawn, self.asked = config, policy, spawn, asked
        self.shares = config.rollout.most_workers
        """Prompts of a batch are always cut alike, however many workers there are."""
        self.version = 0
        start = min(config.rollout.workers, self._wanted())
        self.members = [self._start(number) for number in range(start)]
        self.connected: list[Any] = []
        self.audit: Audit | None = None
        """The one whose outcome is not known yet."""
        self.notices: list[str] = []
        """Who died or left since this was last read, in words."""

    def starting(self) -> dict[str, ray.ObjectRef]:
        """What to wait for until every worker stands."""
        return {member.name: member.ready for member in self.members}

    def start_generation(
        self, prompts: Sequence[Prompt], completions: int, seed: int, greedy: bool = False
    ) -> "Generation":
        shares = {}
        for number in range(self.shares):
            if share := list(prompts[number :: self.shares]):
                shares[number] = Share(share, completions, seed * self.shares + number, greedy)
        generation = Generation(self, list(prompts), shares)
        generation.dispatch(list(shares))
        return generation

    def sync(self, version: int, seconds: float) -> None:
        """Every worker to the policy of `version`; its audit begins. Workers that stand since the
        last sync are taken in; where none is left, the first of the new ones is waited for.
        """
        self.audited(self.version)
        self.version = version
        wanted = self._wanted()
        self._shrink(wanted)
        self._grow(wanted)
        self._admit(0.0)
        self._wait_for(any)
        present = [member for member in self.members if member.state != "STARTING"]
        digests = self._send(present, version, seconds)
        calls = {member.name: member.actor.audit.remote(version) for member in present}
        self.audit = Audit(version, digests, calls)
        for member in present:
            member.state = "HEALTHY"

    def _send(self, present: list[Member], version: int, seconds: float) -> dict[str, str]:
        """Digests of what went to the engines. One that dies on the way breaks the transfer, which
        the policy tells in the transport's words or not at all: raises `RoleDied` then too.
        """
        actors = [member.actor for member in present]
        try:
            if actors != self.connected:
                self.policy.call("connect", actors, seconds=seconds)
                self.connected = actors
            return self.policy.call("sync", version, seconds=seconds)  # type: ignore[no-any-return]
        except RoleDied:
            raise
        except RunFailed as failure:
            if dead := gone({member.actor.ready.remote(): member.name for member in present}):
                raise RoleDied(f"{failure}; {dead}") from failure
            raise

    def audited(self, version: int) -> None:
        """Wait until every worker has shown that what it held as `version` was the policy.

        Raises:
            WeightAuditError: a worker computes with other weights.
        """
        audit = self.audit
        if audit is None or version < audit.version:
            return
        for name, found in wait(audit.calls, self.config.deadlines.sync, "weight audit").items():
            compare(audit.digests, found, name, audit.version)
        self.audit = None

    def sleep(self) -> None:
        """Colocated engines give their memory to the learners until the next sync; those that are
        still starting are waited for first, since they take theirs."""
        if not self.config.rollout.colocated:
            return
        self._wait_for(all)
        calls = {member.name: member.actor.sleep.remote() for member in self.members}
        wait(calls, self.config.deadlines.sync, "engines going to sleep")
        for member in self.members:
            member.state = "STALE"

    def healthy(self) -> list[Member]:
        """Who can take work; when nobody can, a new worker is waited for and synchronised."""
        if not any(member.state == "HEALTHY" for member in self.members):
            self.sync(self.version, self.config.deadlines.sync)
        return [member for member in self.members if member.state == "HEALTHY"]

    def lost(self, member: Member, error: Exception) -> None:
        """A new worker takes the place of a dead one."""
        if member not in self.members:
            return  # several shares tell of the same death
        self.notices.append(f"{member.name} is gone, a new one starts in its place: {cause(error)}")
        self.members[self.members.index(member)] = self._start(member.number)

    def _start(self, number: int) -> Member:
        actor = self.spawn(number)
        return Member(number, actor, actor.ready.remote())

    def _wanted(self) -> int:
        """Workers to come to: what `medgpt scale` asked for last, else as many as may be."""
        asked = self.asked()
        return self.shares if asked is None else min(asked, self.shares)

    def _shrink(self, wanted: int) -> None:
        """Who is too many gets no more work, and ends when its last call is answered."""
        for member in self.members[wanted:]:
            member.actor.__ray_terminate__.remote()
            self.notices.append(f"{member.name} leaves, as asked for")
        del self.members[wanted:]

    def _grow(self, wanted: int) -> None:
        """Start one more worker if one is wanted and the cluster has room for it."""
        if len(self.members) >= wanted:
            return
        rollout, number = self.config.rollout, len(self.members)
        free = ray.available_resources()
        room = free.get("CPU", 0) >= rollout.cpus and free.get("GPU", 0) >= rollout.gpus
        if room or number < rollout.workers:  # the first ones have their places reserved
            self.members.append(self._start(number))

    def _wait_for(self, enough: Callable[[Iterable[bool]], bool]) -> None:
        """Until `any` or `all` workers stand. Those that die while they start are replaced, as a
        node that goes down takes them with it; raises `RoleDied` when that is no accident."""
        tries = 2 * self.shares + 2
        while not enough(member.state != "STARTING" for member in self.members):
            if not tries:
                raise RoleDied("rollout workers do not live through their start")
            tries -= 1
            self._admit(self.config.deadlines.start)

    def _admit(self, seconds: float) -> None:
        """Workers whose engine stands become STALE; waits up to `seconds` for the first."""
        starting = {m.ready: m for m in self.members if m.state == "STARTING"}
        if not starting:
            return
        ready, _ = ray.wait(list(starting), num_returns=1, timeout=seconds)
        more, _ = ray.wait(list(starting), num_returns=len(starting), timeout=0)
        if not ready and seconds:
            names = ", ".join(member.name for member in starting.values())
            raise RunFailed(f"no answer from {names} within {seconds:g} s of its start")
        for ref in more:
            member = starting[ref]
            try:
                ray.get(ref, timeout=60)
            except ray.exceptions.RayTaskError as error:
                raise RunFailed(f"{member.name} cannot start: {cause(error)}") from error
            except ray.exceptions.RayError as error:  # the others work on while it is tried again
                self.lost(member, error)
            else:
                member.state = "STALE"


@dataclass(frozen=True)
class Share:
    """Prompts that one worker generates for in one call."""

    prompts: list[Prompt]
    completions: int
    seed: int
    greedy: bool


@dataclass
class Generation:
    """Completions on their way."""

    pool: RolloutPool
    prompts: list[Prompt]
    shares: dict[int, Share]
    _calls: dict[ray.ObjectRef, tuple[int, Member]] = field(default_factory=dict)

    def dispatch(self, numbers: Sequence[int]) -> None:
        """Hand shares to the healthy workers, in turn."""
        workers = self.pool.healthy()
        for place, number in enumerate(numbers):
            member, share = workers[place % len(workers)], self.shares[number]
            call = member.actor.generate.remote(
                share.prompts, share.completions, share.seed, share.greedy
            )
            self._calls[call] = number, member

    def result(self) -> list[list[Completion]]:
        """The groups in the order of the prompts, from audited weights.

        Raises:
            WeightAuditError: tokens come from weights that were not the policy's.
            RunFailed: a worker failed, or the groups are not there within `deadlines.generate`.
            RoleDied: workers died more often than there are shares, so it is no accident.
        """
        done: dict[int, list[list[Completion]]] = {}
        deadline = time.monotonic() + self.pool.config.deadlines.generate
        deaths = 0
        while self._calls:
            left = max(deadline - time.monotonic(), 0)
            ready = first_and_more(list(self._calls), left)
            if not ready:
                late = ", ".join(sorted({member.name for _, member in self._calls.values()}))
                raise RunFailed(
                    f"generation: no answer from {late} within "
                    f"{self.pool.config.deadlines.generate:g} s"
                )
            for ref in ready:
                number, member = self._calls.pop(ref)
                try:
                    done[number] = ray.get(ref, timeout=60)
                except ray.exceptions.RayError as error:
                    why = f"generation: {member.name} failed: {cause(error)}"
                    if not died(error):
                        raise RunFailed(why) from error
                    deaths += 1
                    if deaths > 2 * len(self.shares) + 2:
                        raise RoleDied(why) from None
                    self.pool.lost(member, error)
                    self.dispatch([number])
        groups = self._in_order(done)
        self.pool.audited(max(c.newest_version for group in groups for c in group))
        return groups

    def _in_order(self, done: dict[int, list[list[Completion]]]) -> list[list[Completion]]:
        shares = {number: iter(groups) for number, groups in done.items()}
        groups = [next(shares[place % self.pool.shares]) for place in range(len(self.prompts))]
        for prompt, group in zip(self.prompts, groups, strict=True):
            if group[0].prompt_id != prompt.id:
                raise RunFailed(f"completions of {group[0].prompt_id} came for {prompt.id}")
        return groups
