"""Security group rules: what they admit, whose they are, and how they change."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import (
    MANAGED_TAG,
    REFERENCE_TAG,
    Changes,
    Cluster,
    Port,
    Rule,
    Tagging,
    abandoned,
    describe_changes,
    diff_of,
    explain_abandoned,
    kept_rules,
    plan_absent,
    plan_tags,
    removals_in_force,
    rules_of,
)

GROUP, OTHER_GROUP = "sg-0000000a", "sg-0000000b"
TUNNEL = Port(9000, "tcp")
A, B, C = Cluster("demo-a", "id-a"), Cluster("demo-b", "id-b"), Cluster("demo-c", "id-c")
MANAGED = {MANAGED_TAG: "true"}


def rule(tags: dict[str, str] | None = None, port: int = 9000, **changes) -> Rule:
    fields = {"group_id": GROUP, "is_egress": False, "protocol": "tcp", "peer": GROUP, "rule_id": f"sgr-{port}"}
    return Rule(**{**fields, "from_port": port, "to_port": port, "tags": tags or {}, **changes})


OURS = MANAGED | A.reference
SHARED = OURS | B.reference
THEIRS = MANAGED | B.reference


def test_every_kind_of_peer_becomes_a_rule():
    common = {"GroupId": GROUP, "IsEgress": True, "IpProtocol": "tcp", "FromPort": 1, "ToPort": 2}
    described = [
        {**common, "SecurityGroupRuleId": "sgr-1", "ReferencedGroupInfo": {"GroupId": OTHER_GROUP}},
        {**common, "SecurityGroupRuleId": "sgr-2", "CidrIpv4": "10.0.0.0/8"},
        {**common, "SecurityGroupRuleId": "sgr-3", "CidrIpv6": "fd00::/8"},
        {**common, "SecurityGroupRuleId": "sgr-4", "PrefixListId": "pl-1", "Tags": [{"Key": "a", "Value": "1"}]},
    ]
    rules = rules_of(described)
    assert rules == tuple(Rule(GROUP, True, "tcp", 1, 2, p) for p in (OTHER_GROUP, "10.0.0.0/8", "fd00::/8", "pl-1"))
    assert [r.rule_id for r in rules] == ["sgr-1", "sgr-2", "sgr-3", "sgr-4"]
    assert [r.tags for r in rules] == [{}, {}, {}, {"a": "1"}]


# -- Whose a rule is ---------------------------------------------------------------------------

OTHER_RULES = [
    {},
    {"Name": "demo-a-peer-pods"},
    A.reference,
    {MANAGED_TAG: "false", **A.reference},
    MANAGED,
    THEIRS,
    {**MANAGED, f"{REFERENCE_TAG}id-a2": "demo-a"},
]


@pytest.mark.parametrize("tags", OTHER_RULES)
def test_a_rule_without_the_mark_of_the_cluster_is_not_removed(tags):
    assert not plan_absent([rule(tags)], A)


@pytest.mark.parametrize("tags", OTHER_RULES)
def test_the_own_tags_of_a_rule_without_the_mark_of_the_cluster_are_unchanged(tags):
    """It gets a reference if the cluster depends on it and other clusters do as well, and nothing else."""
    taggings = plan_tags([rule(tags)], [rule(tags)], A, {"team": "a"}).tagged
    assert all(tagging.tags == A.reference for tagging in taggings)
    assert bool(taggings) == bool(rule(tags).references)
    assert not plan_tags([rule(tags)], [], A, {"team": "a"})


@pytest.mark.parametrize(
    ("port", "changes"),
    [(9000, {}), (443, {}), (9000, {"is_egress": True}), (9000, {"peer": OTHER_GROUP}), (9000, {"protocol": "udp"})],
)
def test_a_removal_finds_rules_by_their_mark_only(port, changes):
    own = rule(OURS, port, **changes)
    assert plan_absent([own, rule(THEIRS, 1)], A) == Changes(revoked=(own,))


def test_the_last_cluster_removes_a_shared_rule():
    assert plan_absent([rule(SHARED)], A) == Changes(released=(rule(),))
    assert plan_absent([rule(THEIRS)], A) == Changes()
    assert plan_absent([rule(THEIRS)], B) == Changes(revoked=(rule(),))


@pytest.mark.parametrize(
    ("planned", "read", "in_force"),
    [
        ("revoked", A.mark, True),
        ("revoked", A.mark | B.mark, True),
        ("revoked", A.mark | B.reference, False),
        ("revoked", A.reference, False),
        ("revoked", {}, False),
        ("released", A.mark | B.reference, True),
        ("released", A.mark | B.mark | C.reference, True),
        ("released", A.mark | B.mark, False),
        ("released", A.reference | B.reference, False),
        ("released", A.mark, False),
    ],
)
def test_a_removal_is_carried_out_if_the_marks_of_all_clusters_allow_it(planned, read, in_force):
    changes = Changes(**{planned: (rule(OURS),)})
    result = removals_in_force([rule(MANAGED | read), rule(MANAGED | A.mark, 1)], changes, A)
    assert result == (changes if in_force else Changes())
    assert not removals_in_force([], changes, A)


def test_an_interrupted_removal_is_resumed_or_taken_back():
    marked = rule(MANAGED | A.mark)
    assert (marked.references, marked.leaving) == ({"id-a": "demo-a"}, {"id-a": "demo-a"})
    assert plan_absent([marked], A) == Changes(revoked=(marked,))
    assert plan_tags([marked], [], A, {}).tagged == (Tagging(marked, A.reference),)
    assert not plan_tags([marked], [], B, {})


def test_a_cluster_does_not_depend_on_a_rule_that_another_one_may_be_removing():
    assert abandoned([rule(MANAGED | A.mark | B.reference)], B)
    assert not abandoned([rule(SHARED), rule(MANAGED | A.mark)], B)
    assert not abandoned([rule(MANAGED | A.mark | B.reference)], A)


def test_an_abandoned_rule_is_explained_with_what_removes_the_mark_of_the_other_cluster():
    message = explain_abandoned([rule(SHARED | A.mark | B.mark)], A)
    assert f"sgr-9000 of {GROUP} (9000/tcp) by demo-b (id-b). If" in message
    assert "aws ec2 delete-tags --resources sgr-9000 --tags Key=osc.peerpods/cluster/id-b. Then" in message
    assert "id-a" not in message


def test_rules_that_stay_are_reported_with_the_reason():
    leaving = rule(OURS | B.mark, 6)
    rules = [rule(SHARED, 1), rule(MANAGED, 2), rule(THEIRS, 3), rule(OURS, 4), rule({}, 5), leaving]
    assert [(r.from_port, reason) for r, reason in kept_rules(rules, A)] == [
        (1, "It is also used by demo-b (id-b)."),
        (
            2,
            "It has no tag osc.peerpods/cluster/…, so the clusters that use it are unknown.",
        ),
    ]


# -- Tags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing_tags", "before", "after"),
    [
        ({}, {}, {"a": "1", "b": "2"}),
        ({"a": "1", "b": "2"}, None, None),
        ({"a": "1", "b": "2", "other": "x"}, None, None),
        ({"a": "1", "b": "old"}, {"b": "old"}, {"b": "2"}),
        ({"a": "", "other": "x"}, {"a": ""}, {"a": "1", "b": "2"}),
    ],
)
def test_missing_tags_of_a_rule_of_the_cluster_are_set(existing_tags, before, after):
    changes = plan_tags([rule(OURS | existing_tags)], [], A, {"a": "1", "b": "2"})
    assert [(t.before, t.tags) for t in changes.tagged] == ([] if after is None else [(before, after)])


def test_clusters_with_different_tags_do_not_overwrite_each_other():
    shared = rule(SHARED | {"team": "a"})
    assert not plan_tags([shared], [shared], B, {"team": "b"})
    assert not plan_tags([shared], [shared], A, {"team": "new"})


def test_a_new_rule_has_a_name_and_its_marks():
    assert A.tags_of_new_rules({"team": "a", MANAGED_TAG: "no"}) == {"Name": "demo-a-peer-pods", "team": "a", **OURS}
    assert A.tags_of_new_rules({"Name": "mine"})["Name"] == "mine"


# -- After a failure ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planned", "read", "is_done"),
    [
        (Changes(opened=(rule(),)), [], False),
        (Changes(opened=(rule(),)), [rule(OURS)], True),
        (Changes(opened=(rule(),)), [rule(SHARED)], True),
        (Changes(opened=(rule(),)), [rule(THEIRS)], False),
        (Changes(opened=(rule(),)), [rule(OURS, is_egress=True)], False),
        (Changes(tagged=(Tagging(rule(OURS), {"a": "1"}),)), [rule(OURS | {"a": "1", "b": "2"})], True),
        (Changes(tagged=(Tagging(rule(OURS), {"a": "1"}),)), [rule(OURS | {"a": "2"})], False),
        (Changes(tagged=(Tagging(rule(OURS), {"a": "1"}),)), [], False),
        (Changes(revoked=(rule(OURS),)), [rule(OURS, 1)], True),
        (Changes(revoked=(rule(OURS),)), [rule(OURS)], False),
        (Changes(released=(rule(SHARED),)), [rule(THEIRS)], True),
        (Changes(released=(rule(SHARED),)), [rule(SHARED)], False),
        (Changes(released=(rule(SHARED),)), [], True),
    ],
)
def test_the_rules_show_what_a_request_without_an_answer_changed(planned, read, is_done):
    assert planned.in_force(read, A) == (planned if is_done else Changes())


def test_changes_are_described_for_messages():
    changes = Changes((rule(), rule(port=15150)), (Tagging(rule(port=1), {}),), (rule(port=2),), (rule(port=3),))
    assert describe_changes(changes) == (
        f"opened 9000/tcp of {GROUP}, 15150/tcp of {GROUP}, tagged 1/tcp of {GROUP}, removed 2/tcp of {GROUP}, "
        f"gave up 3/tcp of {GROUP}"
    )
    assert len(changes) == 5
    assert changes.of_group(OTHER_GROUP) == Changes()
    assert changes.of_group(GROUP) == changes


# -- Diff --------------------------------------------------------------------------------------


def test_the_diff_of_opening_and_of_removing():
    opened = Changes(opened=(rule(), rule(port=15150, is_egress=True, peer=OTHER_GROUP)))
    assert diff_of("header", opened, [(Port(15150, "tcp"), "the group itself (tcp 15150)")], A) == {
        "before_header": "header",
        "after_header": "header",
        "before": "9000/tcp closed\n15150/tcp open to the group itself (tcp 15150)\n15150/tcp egress closed\n",
        "after": (
            "9000/tcp open to the group itself (tcp 9000)\n15150/tcp open to the group itself (tcp 15150)\n"
            f"15150/tcp egress open to {OTHER_GROUP} (tcp 15150)\n"
        ),
    }
    absent = diff_of("header", Changes(revoked=(rule(OURS),)), [], A)
    assert (absent["before"], absent["after"]) == ("9000/tcp opened by osc.peerpods (sgr-9000)\n", "")


def test_the_diff_of_tags():
    covered = "the group itself (tcp 9000)"
    tagged = Changes(tagged=(Tagging(rule({"b": "old"}), {"a": "1", "b": "2"}),))
    diff = diff_of("header", tagged, [(TUNNEL, covered)], A)
    assert diff["before"] == f"9000/tcp open to {covered}; sgr-9000 has the tags b=old\n"
    assert diff["after"] == f"9000/tcp open to {covered}; sgr-9000 has the tags a=1, b=2\n"
    diff = diff_of("header", Changes(released=(rule(SHARED),)), [], A)
    assert diff["before"] == f"9000/tcp open to {covered}; sgr-9000 has the tags osc.peerpods/cluster/id-a=demo-a\n"
    assert diff["after"] == f"9000/tcp open to {covered}; sgr-9000 has no such tag\n"
