from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator import (
    Progress,
    catalog,
    describe_catalogs,
    ending,
    installation,
    migration_state,
    plan_name,
    plan_teardown,
    pod_vm_image,
    removal,
    roll,
    upgrade,
    version,
)

PACKAGE = "sandboxed-containers-operator"
V170, V180, V181 = (f"{PACKAGE}.v{one}" for one in ("1.7.0", "1.8.0", "1.8.1"))
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def ago(**since) -> str:
    return (NOW - timedelta(**since)).strftime("%Y-%m-%dT%H:%M:%SZ")


def subscription(installed=None, current=None, conditions=(), written=None, **more) -> dict:
    return {
        "metadata": {
            "name": PACKAGE,
            "managedFields": [
                {"manager": "us", "time": written or ago(hours=1)},
                {"manager": "olm", "time": ago(seconds=0), "subresource": "status"},
            ],
        },
        "spec": {
            "name": PACKAGE,
            "channel": "stable",
            "source": "redhat",
            "sourceNamespace": "market",
            **more.pop("spec", {}),
        },
        "status": {
            "installedCSV": installed,
            "currentCSV": current or installed,
            "conditions": list(conditions),
            **more,
        },
    }


def condition(kind, status="True", reason="", message="", **since) -> dict:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": ago(**since or {"minutes": 1}),
    }


def plan(*names, approved=False, phase="RequiresApproval", created=None, conditions=()) -> dict:
    return {
        "metadata": {"name": "install-abc", "creationTimestamp": created or ago(minutes=1)},
        "spec": {"clusterServiceVersionNames": list(names), "approved": approved},
        "status": {"phase": phase, "conditions": list(conditions)},
    }


def csv(name, phase="Succeeded", replaces=None, **status) -> dict:
    return {
        "metadata": {"name": name},
        "spec": {"replaces": replaces},
        "status": {"phase": phase, **status},
    }


def installed(sub, a_plan=None, csvs=(), wanted="", source=True) -> Progress:
    found = {one["metadata"]["name"]: one for one in csvs}
    return installation(sub, {"metadata": {}} if source else None, a_plan, found, wanted, NOW)


def manifest(name="redhat", namespace="market", **channels) -> dict:
    return {
        "status": {
            "catalogSource": name,
            "catalogSourceNamespace": namespace,
            "defaultChannel": "stable",
            "channels": [
                {"name": channel, "currentCSV": names[-1], "entries": [{"name": one} for one in reversed(names)]}
                for channel, names in channels.items()
            ],
        }
    }


CATALOGS = describe_catalogs([manifest(stable=[V170, V180, V181])])


@pytest.mark.parametrize(
    ("older", "newer"),
    [("1.8.1", "1.10.0"), ("1.8.1", "1.8.1-1"), ("1.8.1-0.1700000", "1.8.1-0.1800000")],
)
def test_versions(older: str, newer: str):
    assert version(f"{PACKAGE}.v{older}") < version(f"{PACKAGE}.v{newer}")


class TestApproval:
    """Exactly what was asked for, or a step on the way there from what is installed."""

    @pytest.mark.parametrize(
        ("names", "here", "wanted", "approve"),
        [
            ([V181], None, V181, True),
            ([V180], None, V181, False),
            ([V180], V170, V181, True),
            ([V180, "another.v1.0.0"], V170, V181, False),
            ([V181, "another.v1.0.0"], V170, V181, False),
            ([V181], V170, V180, False),
            (["another.v1.8.0"], V170, V181, False),
            ([V181], None, "", False),
        ],
    )
    def test_it(self, names, here, wanted, approve):
        csvs = [csv(here)] if here else []
        progress = installed(subscription(here, names[0]), plan(*names), csvs, wanted)
        assert progress.approve is approve
        assert bool(progress.problem) is not approve
        assert ("spec.approved" in progress.remedy) is not approve
        assert not progress.done

    def test_what_is_installed_needs_none(self):
        progress = installed(subscription(V180, V181), plan(V181), [csv(V180)])
        assert (progress.done, progress.approve, progress.problem) == (True, False, "")

    def test_a_plan_of_before_the_subscription_changed_is_no_answer(self):
        sub = subscription(None, V181, written=ago(seconds=5))
        assert installed(sub, plan(V181, created=ago(minutes=2)), [], V170) == Progress(
            f"InstallPlan install-abc ({V181}) is RequiresApproval",
            f"InstallPlan install-abc ({V181}) is RequiresApproval",
        )
        assert installed(sub, plan(V181, created=ago(seconds=3)), [], V170).problem


class TestInstallation:
    @pytest.mark.parametrize(
        ("sub", "a_plan", "csvs", "wanted", "done"),
        [
            (subscription(), None, [], "", False),
            (subscription(V181), None, [csv(V181)], "", True),
            (subscription(V181), None, [csv(V181, "Installing")], "", False),
            (subscription(V181), plan(V181, approved=True, phase="Complete"), [csv(V181)], V181, True),
            (subscription(V181), None, [csv(V181, replaces=V180), csv(V180, "Deleting")], V181, False),
            (subscription(V181), None, [csv(V181, replaces=V180)], V181, True),
            # OLM goes on to the next by itself.
            (subscription(V180, V181), plan(V181, approved=True), [csv(V180)], "", False),
        ],
    )
    def test_when_it_is_done(self, sub, a_plan, csvs, wanted, done):
        progress = installed(sub, a_plan, csvs, wanted)
        assert (progress.done, progress.problem) == (done, "")

    @pytest.mark.parametrize(
        ("found", "expected"),
        [
            (
                {
                    "sub": subscription(
                        conditions=[
                            condition(
                                "ResolutionFailed", reason="ConstraintsNotSatisfiable", message="no operators found"
                            )
                        ]
                    )
                },
                "OLM says ResolutionFailed: no operators found",
            ),
            (
                {"sub": subscription(conditions=[condition("BundleUnpackFailed", message="no image")])},
                "OLM says BundleUnpackFailed: no image",
            ),
            (
                {
                    "sub": subscription(current=V181),
                    "a_plan": plan(
                        V181,
                        approved=True,
                        phase="Failed",
                        conditions=[condition("Installed", "False", "InstallCheckFailed", "not allowed")],
                    ),
                },
                "InstallPlan install-abc failed: not allowed",
            ),
            (
                {"sub": subscription(V181), "csvs": [csv(V181, "Failed", reason="NoOperatorGroup", message="none")]},
                f"ClusterServiceVersion {V181} failed: NoOperatorGroup, none",
            ),
            ({"sub": subscription(), "source": False}, "CatalogSource market/redhat is gone"),
            ({"sub": subscription(V181), "csvs": [csv(V181)], "wanted": V180}, "OLM does not go back"),
            (
                {"sub": subscription(V170, state="AtLatestKnown"), "csvs": [csv(V170)], "wanted": V181},
                f"Channel stable leads no further than {V170}",
            ),
            ({"sub": None}, "There is no Subscription"),
        ],
    )
    def test_what_goes_no_further(self, found, expected):
        assert expected in installed(**found).problem

    @pytest.mark.parametrize(
        "passing",
        [
            condition("ResolutionFailed", reason="ErrorPreventedResolution", message="refused"),
            condition("CatalogSourcesUnhealthy", message="targeted catalogsource unhealthy"),
        ],
    )
    def test_what_may_pass_is_told(self, passing):
        progress = installed(subscription(conditions=[passing]))
        assert not progress.problem
        assert passing["message"] in progress.summary

    @pytest.mark.parametrize(("written", "problem"), [(5, False), (40, True)])
    def test_a_failure_of_before_the_subscription_changed(self, written, problem):
        failed = condition("ResolutionFailed", reason="ConstraintsNotSatisfiable", minutes=2)
        sub = subscription(conditions=[failed], written=ago(seconds=written))
        assert bool(installed(sub).problem) is problem

    def test_the_older_field_for_the_install_plan(self):
        assert plan_name({"status": {"installplan": {"name": "install-old"}}}) == "install-old"


class TestUpgrade:
    @pytest.mark.parametrize(
        ("here", "to", "path"),
        [
            (V170, "", [V180, V181]),
            (V170, "1.8.0", [V180]),
            (V180, V181, [V181]),
            (V181, "", []),
        ],
    )
    def test_the_way(self, here, to, path):
        found = upgrade(subscription(here, spec={"installPlanApproval": "Manual"}), CATALOGS, to)
        assert (found["path"], found["problem"]) == (path, "")

    @pytest.mark.parametrize(
        ("sub", "catalogs", "to", "expected"),
        [
            (subscription(), CATALOGS, "", "is not installed"),
            (None, CATALOGS, "", "is not installed"),
            (subscription(V180), CATALOGS, "1.7.0", "OLM does not go back"),
            (subscription(V170), CATALOGS, "1.9.0", f"it leads to {V180}, {V181}."),
            (subscription(V181), CATALOGS, "1.9.0", "it leads to nothing newer."),
            (subscription(V170), CATALOGS, "1.8.0", f"OLM goes on to {V181} by itself"),
            (subscription(V170), [], "", "name the version"),
        ],
    )
    def test_where_there_is_none(self, sub, catalogs, to, expected):
        found = upgrade(sub, catalogs, to)
        assert expected in found["problem"]
        assert not found["path"]

    def test_where_nobody_tells_what_the_channel_offers(self):
        assert upgrade(subscription(V170), [], "1.8.0") == {
            "csv": V180,
            "path": [V180],
            "problem": "",
        }


READY = {"status": {"connectionState": {"lastObservedState": "READY", "lastConnect": ago(hours=1)}}}


class TestCatalog:
    @staticmethod
    def wanted(name="redhat", channel="stable", csv="") -> dict:
        return {"namespace": "market", "name": name, "channel": channel, "csv": csv}

    @pytest.mark.parametrize("catalogs", [CATALOGS, None])
    def test_one_that_will_do(self, catalogs):
        assert catalog(READY, catalogs, self.wanted(csv=V180), NOW).done

    @pytest.mark.parametrize(
        ("source", "wanted", "expected"),
        [
            (
                None,
                {},
                "There is no CatalogSource market/redhat. sandboxed-containers-operator is offered by market/redhat (channels stable)",
            ),
            (
                READY,
                {"name": "mirror"},
                "does not offer sandboxed-containers-operator. sandboxed-containers-operator is offered by market/redhat",
            ),
            (READY, {"channel": "fast"}, "has no channel fast of sandboxed-containers-operator, but stable"),
            (READY, {"csv": f"{PACKAGE}.v9"}, f"has no {PACKAGE}.v9, but {V170}, {V180}, {V181}"),
        ],
    )
    def test_one_that_will_not(self, source, wanted, expected):
        assert expected in catalog(source, CATALOGS, self.wanted(**wanted), NOW).problem

    def test_one_that_is_not_reached(self):
        source = {"status": {"connectionState": {"lastObservedState": "TRANSIENT_FAILURE"}}}
        progress = catalog(source, CATALOGS, self.wanted(), NOW)
        assert (progress.done, progress.problem) == (False, "")
        assert "TRANSIENT_FAILURE, not READY" in progress.summary

    def test_one_whose_packages_are_not_known_yet(self):
        source = {"status": {"connectionState": {"lastObservedState": "READY", "lastConnect": ago(seconds=5)}}}
        progress = catalog(source, [], self.wanted(), NOW)
        assert (progress.done, progress.problem) == (False, "")


def kata(count=3, ready=0, status="True", reason="Installing", message="", classes=(), **nodes) -> dict:
    return {
        "metadata": {"name": "k"},
        "status": {
            "kataNodes": {"nodeCount": count, "readyNodeCount": ready, **nodes},
            "runtimeClasses": list(classes),
            "conditions": [condition("InProgress", status, reason, message)],
        },
    }


def pool(name="kata-oc", updated=1, conditions=(), **spec) -> dict:
    return {
        name: {
            "metadata": {"name": name},
            "spec": spec,
            "status": {"machineCount": 3, "updatedMachineCount": updated, "conditions": list(conditions)},
        }
    }


def rolled(found, pools=None, since=None) -> Progress:
    return roll(found, pools or {}, "kata-remote", since or {}, NOW)


class TestRoll:
    def test_which_node_and_for_how_long(self):
        updating = condition("Updating", minutes=75)
        progress = rolled(
            kata(ready=1, installing=["w2"], waitingToInstall=["w3"]),
            pool(conditions=[updating]),
            {"w2": ago(minutes=4), "w1": ago(hours=1)},
        )
        assert progress.summary == (
            "1 of 3 nodes run kata; working on w2 (for 4 min); 1 waiting; "
            "MachineConfigPool kata-oc: 1 of 3 updated, for 1 h 15 min"
        )
        assert progress.since == {"w2": ago(minutes=4)}

    def test_time_alone_is_nothing_new(self):
        working = kata(installing=["w2"])
        before = rolled(working, since={"w2": ago(minutes=4)})
        assert rolled(working, since={"w2": ago(minutes=9)}).told == before.told
        assert rolled(kata(ready=1, installing=["w2"])).told != before.told

    def test_of_many_nodes_some_are_named(self):
        progress = rolled(kata(100, installing=[f"w{index}" for index in range(20)]))
        assert "w4 (for 0 s) and 15 more" in progress.summary

    @pytest.mark.parametrize(
        ("found", "done"),
        [
            (kata(3, 3, "False", classes=["kata", "kata-remote"]), True),
            (kata(3, 3, "False", classes=["kata"]), False),
            (kata(3, 2, "False", classes=["kata", "kata-remote"]), False),
            (kata(3, 3, "True", classes=["kata", "kata-remote"]), False),
            ({"metadata": {"name": "new"}}, False),
        ],
    )
    def test_when_it_is_done(self, found, done):
        progress = rolled(found)
        assert (progress.done, progress.problem) == (done, "")

    @pytest.mark.parametrize(
        ("found", "pools", "expected"),
        [
            (kata(reason="Failed", message="Node w1 Degraded: disk full"), {}, "Node w1 Degraded: disk full"),
            (
                kata(),
                pool(conditions=[condition("NodeDegraded", message="w1: disk full")]),
                "MachineConfigPool kata-oc is degraded: w1: disk full",
            ),
            (kata(), pool(paused=True), "MachineConfigPool kata-oc is paused"),
            (kata(0, 0, "False", classes=["kata-remote"]), {}, "The KataConfig selects no node"),
            (None, {}, "There is no KataConfig"),
        ],
    )
    def test_what_goes_no_further(self, found, pools, expected):
        assert expected in rolled(found, pools).problem

    def test_a_pool_that_was_degraded_once(self):
        assert not rolled(kata(), pool(conditions=[condition("NodeDegraded", "False")])).problem


class TestRemoval:
    def test_it_is_over_with_the_kataconfig(self):
        assert removal(None, {}, {}, NOW).done

    def test_how_far_it_is(self):
        found = kata(0, 0, reason="Uninstalling", uninstalling=["w1"], waitingToUninstall=["w2"])
        progress = removal(found, pool("worker"), {}, NOW)
        assert progress.summary.startswith("nodes that still have kata: 2; working on w1 (for 0 s); 1 waiting")
        assert not progress.problem

    def test_pods_that_are_in_the_way(self):
        found = kata(3, 3, "False", "BlockedByExistingKataPods", "existing pods found")
        assert removal(found, {}, {}, NOW).problem == "The operator waits: existing pods found."


@pytest.mark.parametrize(
    ("what", "is_second", "daemon_set", "configs", "limit", "has_settings", "state", "pools"),
    [
        (
            "1.8",
            False,
            "peerpodconfig-ctrl-caa-daemon",
            ["peerpodconfig-openshift"],
            None,
            True,
            "",
            ["peerpodconfig-openshift"],
        ),
        ("1.8 after 1.9", False, "osc-caa-ds", [], "10", True, "downgraded", []),
        ("1.13, newly installed", True, "osc-caa-ds", None, None, True, "", []),
        (
            "not migrated yet",
            True,
            "osc-caa-ds",
            ["peerpodconfig-openshift", "memory"],
            None,
            True,
            "pending",
            ["memory"],
        ),
        ("migrated", True, "osc-caa-ds", ["memory"], "20", True, "migrated", ["memory"]),
        ("migrated without a limit", True, "osc-caa-ds", [], None, True, "limit_missing", []),
        ("no settings at all", True, None, [], None, False, "migrated", []),
    ],
)
def test_between_the_generations(what, is_second, daemon_set, configs, limit, has_settings, state, pools):
    found = migration_state(
        is_second=is_second,
        daemon_set=daemon_set,
        configs=configs,
        limit=limit,
        has_settings=has_settings,
    )
    assert (found["state"], found["pools"]) == (state, pools)
    assert bool(found["message"]) == bool(found["remedy"]) == (state not in ("", "migrated"))


def test_a_peerpodconfig_keeps_the_daemon_set_of_an_older_operator():
    found = migration_state(
        is_second=True,
        daemon_set="osc-caa-ds",
        configs=["memory"],
        limit="10",
        has_settings=True,
        older_daemon_set_of="memory",
    )
    assert (found["state"], found["pools"]) == ("two_adaptors", ["memory"])
    assert "two cloud-api-adaptor pods" in found["message"]
    assert "delete the PeerPodConfig memory" in found["remedy"]


def test_pods_that_have_to_end():
    assert ending([]).done
    progress = ending([f"n/{number}" for number in range(7)])
    assert not progress.done
    assert "7 running: n/0" in progress.summary


def entry(kind: str, name: str = "a", *, ours: bool = True, **labels: str) -> dict:
    return {"kind": kind, "name": name, "ours": ours, "labels": labels}


REQUESTED = {"kataconfiguration.openshift.io/credentials-request-based": "true"}
CSV_OF_OLM = entry("ClusterServiceVersion", ours=False)


@pytest.mark.parametrize(
    ("objects", "removed", "remaining"),
    [
        ([], [], []),
        ([entry("KataConfig"), entry("Namespace")], ["Namespace"], []),
        ([entry("Subscription"), CSV_OF_OLM], ["Subscription", "ClusterServiceVersion"], []),
        ([entry("Subscription", ours=False), CSV_OF_OLM], [], ["Subscription/a", "ClusterServiceVersion/a"]),
        ([entry("OperatorGroup", ours=False), entry("Namespace")], [], ["OperatorGroup/a"]),
        ([entry("Secret", ours=False, **REQUESTED), entry("Namespace")], ["Namespace"], []),
        (
            [entry("KataConfig", ours=False), entry("Subscription"), CSV_OF_OLM],
            [],
            ["KataConfig/a", "Subscription/a", "ClusterServiceVersion/a"],
        ),
    ],
)
def test_what_a_teardown_removes(objects: list[dict], removed: list[str], remaining: list[str]):
    planned = plan_teardown(objects)
    assert [each["kind"] for each in planned["remove"]] == removed
    assert planned["remain"] == remaining


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, {"key": "PODVM_AMI_ID", "id": ""}),
        ({"CLOUD_PROVIDER": "aws", "PODVM_AMI_ID": "ami-0"}, {"key": "PODVM_AMI_ID", "id": "ami-0"}),
        ({"CLOUD_PROVIDER": "azure", "AZURE_IMAGE_ID": "/i"}, {"key": "AZURE_IMAGE_ID", "id": "/i"}),
    ],
)
def test_the_image_of_the_pod_vms(data: dict | None, expected: dict):
    assert pod_vm_image(data and {"data": data}) == expected
