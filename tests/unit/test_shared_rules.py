"""The interleavings of clusters that begin and cease to use one security group rule.

The module itself runs, against a store that answers as EC2 does: a request is atomic, a second rule for the same
traffic is rejected, and so is a request for a rule that is gone. A run is repeated from its beginning with the answers
that it got before, so that each state is reached once, without threads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import (
    MANAGED_TAG,
    Cluster,
    Rule,
    abandoned,
    plan_absent,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import Ends, wanted_flows
from ansible_collections.osc.peerpods.plugins.modules import security_group_ports
from ansible_collections.osc.peerpods.plugins.modules.security_group_ports import (
    InterruptionError,
    Plan,
    Task,
    converge,
    plan_present,
)

GROUP = "sg-0000000a"
A, B, C = Cluster("demo-a", "id-a"), Cluster("demo-b", "id-b"), Cluster("demo-c", "id-c")
FLOWS = wanted_flows([{"port": 15150, "protocols": ["tcp"], "to": ["vms"]}])
ENDS = Ends((frozenset([GROUP]),), (GROUP,), (GROUP,))
EGRESS = Rule(GROUP, True, "-1", -1, -1, "0.0.0.0/0", "sgr-egress")

Store = tuple[Rule, ...]


class NextRequestError(BaseException):
    """A run has used the answers that it got, and sends its next request."""

    def __init__(self, request: Callable[[Store], tuple[Any, Store]]):
        self.request = request


class Answers:
    """EC2 for one run: the answers that it got before, then its next request."""

    def __init__(self, answers: tuple):
        self._answers = iter(answers)

    def _ask(self, request: Callable[[Store], tuple[Any, Store]]) -> Any:
        for answer in self._answers:
            return answer
        raise NextRequestError(request)

    def managed_rules(self) -> Store:
        return self._ask(lambda store: (tuple(rule for rule in store if rule.is_managed), store))

    def rules(self) -> Store:
        return self._ask(lambda store: (store, store))

    def authorize(self, rules, tags, dry_run=False):
        def request(store: Store) -> tuple[list, Store]:
            new = [rule for rule in rules if rule not in store]
            return new, (*store, *(replace(rule, rule_id=f"sgr-{tags['Name']}", tags=tags) for rule in new))

        return self._ask(request)

    def tag(self, rules, tags, dry_run=False):
        return self._change(rules, lambda rule: replace(rule, tags={**rule.tags, **tags}))

    def untag(self, rules, keys, dry_run=False):
        def change(rule: Rule) -> Rule:
            return replace(rule, tags={key: value for key, value in rule.tags.items() if key not in keys})

        return self._change(rules, change)

    def revoke(self, rules, dry_run=False):
        return self._change(rules, lambda rule: None)

    def _change(self, rules, change: Callable[[Rule], Rule | None]) -> list:
        ids = {rule.rule_id for rule in rules}

        def request(store: Store) -> tuple[list, Store]:
            existing = {rule.rule_id for rule in store}
            after = (change(rule) if rule.rule_id in ids else rule for rule in store)
            return [rule for rule in rules if rule.rule_id in existing], tuple(filter(None, after))

        return self._ask(request)


@dataclass(frozen=True)
class Run:
    """A run of the module for a cluster, with the answers that it got, and its end."""

    cluster: Cluster
    joins: bool
    answers: tuple = ()
    end: str = ""

    def step(self, store: Store) -> tuple[Run, Store]:
        """The run and the store after its next request."""
        try:
            self._converge(Answers(self.answers))
        except NextRequestError as pending:
            answer, store = pending.request(store)
            run = replace(self, answers=(*self.answers, answer))
            return replace(run, end=run._end()), store
        raise AssertionError("The run has ended.")

    def _end(self) -> str:
        try:
            self._converge(Answers(self.answers))
        except NextRequestError:
            return ""
        except InterruptionError as error:
            return str(error)
        return "ok"

    def _converge(self, ec2: Any) -> None:
        task = Task(self.cluster, {MANAGED_TAG: "true"}, dry_run=False, check_mode=False)
        if self.joins:
            converge(ec2, task, ec2.rules, lambda rules: plan_present(None, ec2, task, FLOWS, ENDS, (), (), rules))
        else:
            converge(ec2, task, ec2.managed_rules, lambda rules: Plan(plan_absent(rules, self.cluster)))


def shared_by(*clusters: Cluster) -> Store:
    tags = {MANAGED_TAG: "true"}
    for cluster in clusters:
        tags |= cluster.reference
    rule = Rule(GROUP, False, "tcp", 15150, 15150, GROUP, "sgr-1", tags)
    return (EGRESS, rule) if clusters else (EGRESS,)


def states_of(store: Store, runs: tuple[Run, ...]) -> Iterator[tuple[Store, tuple[Run, ...]]]:
    """Every state that two runs reach in some order of their requests; those of random orders of three runs."""
    if len(runs) > 2:
        yield from walks(store, runs)
        return
    pending, seen = [(store, runs)], set()
    while pending:
        store, runs = pending.pop()
        key = repr((store, runs))
        if key in seen:
            continue
        seen.add(key)
        yield store, runs
        for index, run in enumerate(runs):
            if not run.end:
                after, changed = run.step(store)
                pending.append((changed, (*runs[:index], after, *runs[index + 1 :])))


def walks(begin: Store, runs: tuple[Run, ...]) -> Iterator[tuple[Store, tuple[Run, ...]]]:
    choose = random.Random(17).choice
    for dummy in range(40):
        store, states = begin, list(runs)
        while unfinished := [index for index, run in enumerate(states) if not run.end]:
            index = choose(unfinished)
            states[index], store = states[index].step(store)
            yield store, tuple(states)


def is_open_for(cluster: Cluster, store: Store) -> bool:
    return any(cluster.id in rule.references and cluster.id not in rule.leaving for rule in store)


JOINS, LEAVES = True, False


@pytest.mark.parametrize(
    ("users", "runs"),
    [
        ([A], [(A, LEAVES), (B, JOINS)]),
        ([A, B], [(A, LEAVES), (B, LEAVES)]),
        ([A, B], [(A, LEAVES), (B, JOINS)]),
        ([], [(A, JOINS), (B, JOINS)]),
        ([A, B], [(A, LEAVES), (B, LEAVES), (C, JOINS)]),
        ([A], [(A, LEAVES), (B, JOINS), (C, JOINS)]),
        ([A, B, C], [(A, LEAVES), (B, LEAVES), (C, LEAVES)]),
    ],
)
def test_a_run_that_succeeds_has_what_it_reports(monkeypatch, users, runs):
    """In every state, so also if the other runs stop there for ever: the rule of a cluster that joined is not removed,
    and nothing has the reference of a cluster that left. At their ends, no rule is left without a cluster."""
    monkeypatch.setattr(security_group_ports, "WAITS", (0, 0))
    ends: set[tuple[str, ...]] = set()
    for store, states in states_of(shared_by(*users), tuple(Run(*run) for run in runs)):
        for run in states:
            if run.end == "ok":
                assert is_open_for(run.cluster, store) == run.joins, (store, states)
        if all(run.end for run in states):
            ends.add(tuple(run.end for run in states))
            if all(run.end == "ok" for run in states) and not any(run.joins for run in states):
                assert store == (EGRESS,)
    assert ("ok",) * len(runs) in ends


class Late:
    """EC2, which returns what was written only after some reads ("Eventual consistency in the Amazon EC2 API")."""

    def __init__(self, store: Store, reads: int):
        self.store = self._visible = store
        self._reads, self._until_visible = reads, 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def request(*args: Any) -> Any:
            with pytest.raises(NextRequestError) as pending:
                getattr(Answers(()), name)(*args)
            is_read = name.endswith("rules")
            if is_read and self._until_visible == 0:
                self._visible = self.store
            answer, after = pending.value.request(self._visible if is_read else self.store)
            if is_read:
                self._until_visible = max(0, self._until_visible - 1)
            else:
                self.store, self._until_visible = after, self._reads
            return answer

        return request


@pytest.mark.parametrize(("users", "run"), [([A], Run(A, LEAVES)), ([A, B], Run(A, LEAVES)), ([A], Run(B, JOINS))])
def test_what_ec2_returns_late_is_awaited(monkeypatch, users, run):
    """Without another client, a run does not fail because of one."""
    monkeypatch.setattr(security_group_ports, "WAITS", (0,) * 6)
    ec2 = Late(shared_by(*users), reads=6)
    run._converge(ec2)
    assert is_open_for(run.cluster, ec2.store) == run.joins
    assert is_open_for(B, ec2.store) == (B in users or run.joins)


def test_a_cluster_that_joins_an_interrupted_removal_reports_it(monkeypatch):
    monkeypatch.setattr(security_group_ports, "WAITS", (0, 0))
    interrupted, store = Run(A, LEAVES), shared_by(A)
    for dummy in range(2):
        interrupted, store = interrupted.step(store)
    (rule,) = (rule for rule in store if rule.is_managed)
    assert rule.leaving == {"id-a": "demo-a"}

    run = Run(B, JOINS)
    while not run.end:
        run, store = run.step(store)
    assert "sgr-1 of sg-0000000a (15150/tcp) by demo-a (id-a)" in run.end
    assert abandoned(store, B)

    # The next removal finds the reference, and a return of the cluster clears the mark.
    for again in (Run(A, LEAVES), Run(A, JOINS)):
        after = store
        while not again.end:
            again, after = again.step(after)
        assert again.end == "ok"
        assert is_open_for(B, after)
        assert is_open_for(A, after) == again.joins
        assert not abandoned(after, B)
