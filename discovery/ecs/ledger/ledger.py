"""All that is known of one ECS cluster, whoever told it. No I/O.

Informants (the poller, events, the agent beside us, another proxy, the disk) say what they have seen, in any
order and more than once. The ledger keeps the newest word on each thing and what that changes, so that every
order of the same news ends in the same ledger:

* a task's `version` only rises, and of two words with one version neither takes back what cannot be undone;
* a stop is never taken back, and what was seen to have stopped never returns;
* the agent on a task's own instance is believed before everybody else about it, as long as it answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from discovery.ecs.ledger import words
from discovery.ecs.ledger.agents import Agent
from discovery.ecs.ledger.places import Places
from discovery.ecs.ledger.words import GONE, Sighting
from discovery.ecs.shapes import Task
from discovery.model import Told

__all__ = ["Ledger", "Sighting"]

# EventBridge repeats a delivery for up to 24 hours: nothing that could still be said is older than this.
REMEMBER_S: Final = 25 * 3600.0
# Each is some 250 bytes. Beyond that, only a word that was hours late could bring a task back, and the next
# complete answer of the API would end it.
_MOST_BURIED: Final = 50_000


# ECS shows a stopped task for an hour. One that it does not know so soon after it was first heard of is
# rather one that the answering copy does not know yet: the API is eventually consistent.
_YOUNG_S: Final = 30.0


@dataclass(slots=True)
class _Entry:
    task: Task | None = None  # as described: None while only the agent knows of it
    presumed: Task | None = None  # in its stead, until it is described
    sighting: Sighting | None = None  # as the agent has it
    instance_arn: str = ""
    unlisted: bool = False  # the agent of its instance does not list it (any more)
    seen: Task | None = None  # what all that comes to
    told: dict[str, Told] = field(default_factory=dict)  # by informant
    since_s: float = 0.0  # when it was first heard of


class Ledger(Places):
    """The newest word on every task, instance and definition of one cluster.

    `clock` is monotonic seconds, `wall_clock` Unix time.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock=clock, wall_clock=wall_clock)
        self._entries: dict[str, _Entry] = {}
        self._groups: dict[str, dict[str, Task]] = {}
        self._on_instance: dict[str, set[str]] = {}  # instance ARN to tasks
        self._agents: dict[str, Agent] = {}  # by instance ARN
        self._buried: dict[str, float] = {}  # tasks that have stopped, and when that was heard
        self._doubted: dict[str, float] = {}  # tasks to when they were first missing

    # -- what is known ---------------------------------------------------------------------------

    @property
    def groups(self) -> Mapping[str, Mapping[str, Task]]:
        """Every task that is not known to be gone, by its group ("service:web") and ARN.

        A task that has not changed is the same object as before.
        """
        return self._groups

    @property
    def doubted(self) -> Set[str]:
        """Tasks that are kept although the last complete answer lacked them."""
        return self._doubted.keys()

    @property
    def undescribed(self) -> Mapping[str, tuple[str, Sighting]]:
        """Tasks that only an agent has spoken of: its instance, and what it said, by ARN."""
        found = {}
        for arn in self._waiting.tasks:
            entry = self._entries[arn]
            if entry.sighting is not None:
                found[arn] = (entry.instance_arn, entry.sighting)
        return found

    @property
    def urgent(self) -> set[tuple[str, str]]:
        """What those tasks wait for, as (kind, key), that run according to an agent."""
        running = (
            arn
            for instance_arn in self._agents
            for arn in self.on_instance(instance_arn)
            if (sighting := self._entries[arn].sighting) is not None
            and sighting.known_status == "RUNNING"
            and sighting.desired_status != "STOPPED"
        )
        return set[tuple[str, str]]().union(*map(self._waiting.of, running))

    def task(self, arn: str) -> Task | None:
        """Return a task as it is to be seen, None if it is gone or was never described."""
        entry = self._entries.get(arn)
        return entry.seen if entry is not None else None

    def tasks(self) -> Iterator[Task]:
        """Yield every task that is not known to be gone."""
        for group in self._groups.values():
            yield from group.values()

    def on_instance(self, instance_arn: str) -> Set[str]:
        return self._on_instance.get(instance_arn, frozenset())

    def buried(self, arn: str) -> bool:
        """Say whether a task has been seen to stop."""
        return arn in self._buried

    def told(self, arn: str) -> tuple[Told, ...]:
        """Return the newest word of each informant on a task, newest first."""
        entry = self._entries.get(arn)
        return tuple(sorted(entry.told.values(), key=lambda t: -t.at_s)) if entry is not None else ()

    # -- what is heard of tasks ------------------------------------------------------------------

    def hear_task(self, task: Task, *, by: str) -> None:
        """Take one description of a task, however old."""
        if task.arn in self._buried:
            return
        if task.last_status in GONE:
            self.hear_gone(task.arn, by=by)
            return
        self._doubted.pop(task.arn, None)
        entry = self._entry(task.arn)
        entry.told[by] = Told(by, words.in_words(task), self._wall_clock())
        merged = words.joined(entry.task, task)
        if merged is not entry.task:
            first = entry.task is None
            entry.task, entry.presumed = merged, None
            self._move(task.arn, entry, merged.instance_arn)
            if first:
                self._waiting.described(task.arn)
            if entry.instance_arn not in self._agents:
                entry.unlisted = False  # it is later news than what its agent said when that still answered
            self._look(task.arn, entry)

    def hear_gone(self, arn: str, *, by: str) -> None:
        """Take it that a task has stopped, or that ECS positively does not know it (any more)."""
        del by  # what is buried is not asked about
        if arn in self._buried:
            return
        self._buried[arn] = self._clock()
        self._drop(arn)
        self._changes.forget("task", arn)
        self._changes.note("gone", arn)
        self._forget()

    def hear_missing(
        self, arns: Collection[str], *, by: str, confirm_s: float, agreed: Set[str] = frozenset()
    ) -> set[str]:
        """Take it that a complete answer lacks *arns*; return the groups that DescribeServices is to confirm.

        A missing task is gone, unless its own agent says right now that it runs. But if one goes missing
        that was first heard of only just now, or more than half of a group at once without one word of
        its stopping, the answer is doubted: the tasks stay until a complete answer `confirm_s` later still
        lacks them, and, for an ECS service, its group is in *agreed*: DescribeServices has told that no
        more tasks run than are left.
        """
        now_s = self._clock()
        gone = {
            arn: entry.task
            for arn in arns
            if (entry := self._entries.get(arn)) is not None
            and entry.task is not None
            and not self._runs_here(entry, now_s)
        }
        young = {arn for arn, task in gone.items() if self._is_young(self._entries[arn], task, now_s)}
        doubtful = self._doubtful(gone) | young | (gone.keys() & self._doubted.keys())
        ask = set()
        for arn, task in gone.items():
            if arn in doubtful:
                if now_s - self._doubted.setdefault(arn, now_s) < confirm_s:
                    continue
                if task.ecs_service and task.group not in agreed:
                    ask.add(task.group)
                    continue
            self.hear_gone(arn, by=by)
        return ask

    def _runs_here(self, entry: _Entry, now_s: float) -> bool:
        agent = self._agents.get(entry.instance_arn)
        return (
            agent is not None
            and agent.answers(now_s)
            and entry.sighting is not None
            and entry.sighting.known_status == "RUNNING"
            and entry.sighting.arn not in agent.missing
            and not entry.unlisted
        )

    def _is_young(self, entry: _Entry, task: Task, now_s: float) -> bool:
        runs_s = self._wall_clock() - task.started_at if task.started_at else 0.0
        return max(now_s - entry.since_s, runs_s) < _YOUNG_S

    def _doubtful(self, gone: Mapping[str, Task]) -> set[str]:
        total: dict[str, int] = {}
        lost: dict[str, int] = {}
        for name in {task.group for task in gone.values()}:
            # A task that was already stopping may well be gone: that is no surprise.
            staying = [t.arn for t in self._groups.get(name, {}).values() if t.desired_status == "RUNNING"]
            total[name], lost[name] = len(staying), sum(arn in gone for arn in staying)
        return {
            arn
            for arn, task in gone.items()
            if task.desired_status == "RUNNING" and 2 * lost[task.group] > total[task.group]
        }

    # -- what is heard from agents ---------------------------------------------------------------

    def hear_agent(
        self,
        instance_arn: str,
        sightings: Iterable[Sighting],
        *,
        by: str = "agent",
        confirm_s: float = 10.0,
    ) -> None:
        """Take one complete answer of the agent on an instance.

        What it does not list is not to be seen, and comes back when it lists it again. If it leaves out
        most of what it listed, or has just started, or never listed the task, that is doubted until it
        has said the same for `confirm_s`. A host port that it says one task holds is no other task's.
        """
        agent = self._agents.setdefault(instance_arn, Agent())
        listed = {sighting.arn: sighting for sighting in sightings}
        running = {
            arn
            for arn in self.on_instance(instance_arn)
            if (entry := self._entries[arn]).sighting is not None and not entry.unlisted
        }
        look = agent.hear(listed, running, self._clock())
        for arn, sighting in listed.items():
            if sighting.known_status in GONE:
                self.hear_gone(arn, by=by)
            elif arn not in self._buried:
                self._sight(instance_arn, sighting, by)
        for arn in self.on_instance(instance_arn) - listed.keys():
            entry = self._entries[arn]
            task = entry.task or entry.presumed
            if task is None:
                self._drop(arn)  # nobody else has ever spoken of it
            elif entry.sighting is None and task.last_status in ("PROVISIONING", "PENDING"):
                continue  # on its way to the agent
            elif arn not in agent.missing and not entry.unlisted:
                agent.miss(arn, known=entry.sighting is not None)
        if look:  # who holds which port has changed
            for arn in self.on_instance(instance_arn):
                self._look(arn, self._entries[arn])
        self._confirm_unlisted(agent, by, confirm_s)

    def hear_agent_again(self, instance_arn: str, *, by: str = "agent", confirm_s: float = 10.0) -> None:
        """Take it that the agent's answer is word for word the one before."""
        agent = self._agents.get(instance_arn)
        if agent is not None:
            agent.hear_again(self._clock())
            self._confirm_unlisted(agent, by, confirm_s)

    def hear_agent_lost(self, instance_arn: str) -> None:
        """Take it that the agent does not answer any more: its last words stay, but newer ones count."""
        if self._agents.pop(instance_arn, None) is None:
            return
        for arn in self.on_instance(instance_arn):
            entry = self._entries[arn]
            if entry.task is not None and entry.sighting is not None:
                entry.task, entry.sighting = words.overlaid(entry.task, entry.sighting), None
            self._look(arn, entry)

    def presume(self, arn: str, group: str) -> None:
        """Take it, until the task is described, that one that only an agent has seen belongs to *group*."""
        entry = self._entries.get(arn)
        if entry is not None and entry.task is None and entry.sighting is not None:
            entry.presumed = words.presumed(entry.sighting, entry.instance_arn, group)
            self._look(arn, entry)

    def _sight(self, instance_arn: str, sighting: Sighting, by: str) -> None:
        entry = self._entry(sighting.arn)
        if entry.task is None and entry.sighting is None:
            self._move(sighting.arn, entry, instance_arn)
            self._waiting.undescribed(sighting.arn)
            if (definition_arn := words.definition_arn(sighting)) not in self._definitions:
                self._waiting.want("definition", definition_arn, sighting.arn)
        sighting = words.later_sighting(entry.sighting, sighting)
        if entry.sighting == sighting and not entry.unlisted:
            return
        entry.sighting, entry.unlisted = sighting, False
        if entry.presumed is not None:
            entry.presumed = words.presumed(sighting, instance_arn, entry.presumed.group)
        entry.told[by] = Told(by, words.in_words(sighting), self._wall_clock())
        self._look(sighting.arn, entry)

    def _confirm_unlisted(self, agent: Agent, by: str, confirm_s: float) -> None:
        for arn in agent.take_unlisted(self._clock(), confirm_s):
            entry = self._entries.get(arn)
            if entry is None:
                continue
            if entry.task is None:
                self._drop(arn)
                continue
            entry.unlisted = True
            entry.told[by] = Told(by, "not listed", self._wall_clock())
            self._look(arn, entry)

    # -- inside ----------------------------------------------------------------------------------

    def _entry(self, arn: str) -> _Entry:
        entry = self._entries.get(arn)
        if entry is None:
            entry = self._entries[arn] = _Entry(since_s=self._clock())
        return entry

    def _look(self, arn: str, entry: _Entry) -> None:
        """See anew what all words on one task come to."""
        after = self._view(entry)
        before, entry.seen = entry.seen, after
        if before == after:
            entry.seen = before  # the same object, for those who compare by it
            return
        if before is not None and (after is None or after.group != before.group):
            self._take_out(before)
        if after is not None:
            self._groups.setdefault(after.group, {})[arn] = after
            self._dirty.add(after.group)
            self._want_for(after)
        self._changes.note("task", arn)

    def _view(self, entry: _Entry) -> Task | None:
        task = entry.task or entry.presumed
        if task is None or entry.unlisted:
            return None
        if entry.sighting is not None:
            task = words.overlaid(task, entry.sighting)
        agent = self._agents.get(entry.instance_arn)
        return words.without_claimed(task, agent.claims) if agent is not None and agent.claims else task

    def _take_out(self, task: Task) -> None:
        group = self._groups[task.group]
        del group[task.arn]
        if not group:
            del self._groups[task.group]
        self._dirty.add(task.group)

    def _move(self, arn: str, entry: _Entry, instance_arn: str) -> None:
        if entry.instance_arn == instance_arn:
            return
        self._leave(arn, entry)
        entry.instance_arn = instance_arn
        self._on_instance.setdefault(instance_arn, set()).add(arn)

    def _leave(self, arn: str, entry: _Entry) -> None:
        there = self._on_instance.get(entry.instance_arn)
        if there is not None:
            there.discard(arn)
            if not there:
                del self._on_instance[entry.instance_arn]

    def _drop(self, arn: str) -> None:
        """Know nothing of a task any more."""
        self._doubted.pop(arn, None)
        self._waiting.drop(arn)
        entry = self._entries.pop(arn, None)
        if entry is None:
            return
        self._leave(arn, entry)
        agent = self._agents.get(entry.instance_arn)
        if agent is not None:
            agent.missing.pop(arn, None)
        if entry.seen is not None:
            self._take_out(entry.seen)
            self._changes.note("task", arn)

    def _want_for(self, task: Task) -> None:
        if task.definition_arn not in self._definitions:
            self._waiting.want("definition", task.definition_arn, task.arn)
        if not task.instance_arn:
            return
        instance = self._instances.get(task.instance_arn)
        if instance is None:
            self._waiting.want("instance", task.instance_arn, task.arn)
        elif instance.ec2_id and instance.ec2_id not in self._addresses:
            self._waiting.want("address", instance.ec2_id, task.arn)

    def _groups_of(self, arns: Iterable[str]) -> set[str]:
        tasks = (self.task(arn) for arn in arns)
        return {task.group for task in tasks if task is not None}

    def _definitions_in_use(self) -> Set[str]:
        return {entry.task.definition_arn for entry in self._entries.values() if entry.task is not None}

    def _forget(self) -> None:
        """Let go of what is long over."""
        now_s = self._clock()
        while self._buried:
            arn, heard_s = next(iter(self._buried.items()))
            if now_s - heard_s < REMEMBER_S and len(self._buried) <= _MOST_BURIED:
                break
            del self._buried[arn]
            self._changes.forget("gone", arn)
        self._forget_unused()
