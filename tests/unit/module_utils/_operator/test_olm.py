from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.olm import (
    check_catalog,
    check_installation,
    describe_catalogs,
    plan_name,
    plan_upgrade,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.progress import Progress

from tests.unit.module_utils._operator.objects import NOW, ago, condition

PACKAGE = "sandboxed-containers-operator"
V170, V180, V181 = (f"{PACKAGE}.v{version}" for version in ("1.7.0", "1.8.0", "1.8.1"))


def subscription(installed=None, current=None, conditions=(), written=None, **status) -> dict:
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
            **status.pop("spec", {}),
        },
        "status": {
            "installedCSV": installed,
            "currentCSV": current or installed,
            "conditions": list(conditions),
            **status,
        },
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


def installed(subscribed, install_plan=None, csvs=(), requested="", source=True) -> Progress:
    csvs_by_name = {item["metadata"]["name"]: item for item in csvs}
    return check_installation(
        subscribed, {"metadata": {}} if source else None, install_plan, csvs_by_name, requested, NOW
    )


def manifest(name="redhat", namespace="market", **channels) -> dict:
    return {
        "status": {
            "catalogSource": name,
            "catalogSourceNamespace": namespace,
            "defaultChannel": "stable",
            "channels": [
                {"name": channel, "currentCSV": names[-1], "entries": [{"name": entry} for entry in reversed(names)]}
                for channel, names in channels.items()
            ],
        }
    }


CATALOGS = describe_catalogs([manifest(stable=[V170, V180, V181])])


class TestApproval:
    """Exactly the requested version, or a step on the path to it from the installed version."""

    @pytest.mark.parametrize(
        ("names", "current", "requested", "needs_approval"),
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
    def test_only_the_requested_version_needs_approval(self, names, current, requested, needs_approval):
        csvs = [csv(current)] if current else []
        progress = installed(subscription(current, names[0]), plan(*names), csvs, requested)
        assert progress.needs_approval is needs_approval
        assert bool(progress.problem) is not needs_approval
        assert ("spec.approved" in progress.remedy) is not needs_approval
        assert not progress.done

    def test_an_installed_version_needs_no_approval(self):
        progress = installed(subscription(V180, V181), plan(V181), [csv(V180)])
        assert (progress.done, progress.needs_approval, progress.problem) == (True, False, "")

    def test_a_plan_that_predates_the_subscription_is_ignored(self):
        sub = subscription(None, V181, written=ago(seconds=5))
        assert installed(sub, plan(V181, created=ago(minutes=2)), [], V170) == Progress(
            f"InstallPlan install-abc ({V181}) is RequiresApproval",
            f"InstallPlan install-abc ({V181}) is RequiresApproval",
        )
        assert installed(sub, plan(V181, created=ago(seconds=3)), [], V170).problem


class TestInstallation:
    @pytest.mark.parametrize(
        ("sub", "a_plan", "csvs", "requested", "done"),
        [
            (subscription(), None, [], "", False),
            (subscription(V181), None, [csv(V181)], "", True),
            (subscription(V181), None, [csv(V181, "Installing")], "", False),
            (subscription(V181), plan(V181, approved=True, phase="Complete"), [csv(V181)], V181, True),
            (subscription(V181), None, [csv(V181, replaces=V180), csv(V180, "Deleting")], V181, False),
            (subscription(V181), None, [csv(V181, replaces=V180)], V181, True),
            # OLM upgrades to the next version by itself.
            (subscription(V180, V181), plan(V181, approved=True), [csv(V180)], "", False),
        ],
    )
    def test_completion(self, sub, a_plan, csvs, requested, done):
        progress = installed(sub, a_plan, csvs, requested)
        assert (progress.done, progress.problem) == (done, "")

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (
                {
                    "subscribed": subscription(
                        conditions=[
                            condition(
                                "ResolutionFailed", reason="ConstraintsNotSatisfiable", message="no operators found"
                            )
                        ]
                    )
                },
                "OLM reports ResolutionFailed: no operators found",
            ),
            (
                {"subscribed": subscription(conditions=[condition("BundleUnpackFailed", message="no image")])},
                "OLM reports BundleUnpackFailed: no image",
            ),
            (
                {
                    "subscribed": subscription(current=V181),
                    "install_plan": plan(
                        V181,
                        approved=True,
                        phase="Failed",
                        conditions=[condition("Installed", "False", "InstallCheckFailed", "not allowed")],
                    ),
                },
                "InstallPlan install-abc failed: not allowed",
            ),
            (
                {
                    "subscribed": subscription(V181),
                    "csvs": [csv(V181, "Failed", reason="NoOperatorGroup", message="none")],
                },
                f"ClusterServiceVersion {V181} failed: NoOperatorGroup, none",
            ),
            ({"subscribed": subscription(), "source": False}, "CatalogSource market/redhat is gone"),
            (
                {"subscribed": subscription(V181), "csvs": [csv(V181)], "requested": V180},
                "OLM does not downgrade operators",
            ),
            (
                {"subscribed": subscription(V170, state="AtLatestKnown"), "csvs": [csv(V170)], "requested": V181},
                f"Channel stable has no version after {V170}",
            ),
            ({"subscribed": None}, "There is no Subscription"),
        ],
    )
    def test_problems_that_stop_the_progress(self, arguments, expected):
        assert expected in installed(**arguments).problem

    @pytest.mark.parametrize(
        "passing",
        [
            condition("ResolutionFailed", reason="ErrorPreventedResolution", message="refused"),
            condition("CatalogSourcesUnhealthy", message="targeted catalogsource unhealthy"),
        ],
    )
    def test_a_passing_problem_is_reported(self, passing):
        progress = installed(subscription(conditions=[passing]))
        assert not progress.problem
        assert passing["message"] in progress.summary

    @pytest.mark.parametrize(("written", "problem"), [(5, False), (40, True)])
    def test_a_failure_that_predates_the_subscription_is_ignored(self, written, problem):
        failed = condition("ResolutionFailed", reason="ConstraintsNotSatisfiable", minutes=2)
        sub = subscription(conditions=[failed], written=ago(seconds=written))
        assert bool(installed(sub).problem) is problem

    def test_the_deprecated_field_for_the_install_plan(self):
        assert plan_name({"status": {"installplan": {"name": "install-old"}}}) == "install-old"


class TestUpgrade:
    @pytest.mark.parametrize(
        ("current", "target", "path"),
        [
            (V170, "", [V180, V181]),
            (V170, "1.8.0", [V180]),
            (V180, V181, [V181]),
            (V181, "", []),
        ],
    )
    def test_the_upgrade_path(self, current, target, path):
        upgrade = plan_upgrade(subscription(current, spec={"installPlanApproval": "Manual"}), CATALOGS, target)
        assert (upgrade["path"], upgrade["problem"]) == (path, "")

    @pytest.mark.parametrize(
        ("sub", "catalogs", "target", "expected"),
        [
            (subscription(), CATALOGS, "", "is not installed"),
            (None, CATALOGS, "", "is not installed"),
            (subscription(V180), CATALOGS, "1.7.0", "OLM does not downgrade operators"),
            (subscription(V170), CATALOGS, "1.9.0", f"it leads to {V180}, {V181}."),
            (subscription(V181), CATALOGS, "1.9.0", "it leads to nothing newer."),
            (subscription(V170), CATALOGS, "1.8.0", f"OLM upgrades to {V181} by itself"),
            (subscription(V170), [], "", "Set the version"),
        ],
    )
    def test_versions_without_an_upgrade_path(self, sub, catalogs, target, expected):
        upgrade = plan_upgrade(sub, catalogs, target)
        assert expected in upgrade["problem"]
        assert not upgrade["path"]

    def test_the_versions_of_the_channel_are_unknown(self):
        assert plan_upgrade(subscription(V170), [], "1.8.0") == {
            "csv": V180,
            "path": [V180],
            "problem": "",
        }


READY = {"status": {"connectionState": {"lastObservedState": "READY", "lastConnect": ago(hours=1)}}}


class TestCatalog:
    @staticmethod
    def requested_catalog(name="redhat", channel="stable", csv="") -> dict:
        return {"namespace": "market", "name": name, "channel": channel, "csv": csv}

    @pytest.mark.parametrize("catalogs", [CATALOGS, None])
    def test_a_catalog_with_the_requested_version(self, catalogs):
        assert check_catalog(READY, catalogs, self.requested_catalog(csv=V180), NOW).done

    @pytest.mark.parametrize(
        ("source", "changes", "expected"),
        [
            (
                None,
                {},
                (
                    "There is no CatalogSource market/redhat. sandboxed-containers-operator is offered by "
                    "market/redhat (channels stable)"
                ),
            ),
            (
                READY,
                {"name": "mirror"},
                (
                    "does not offer sandboxed-containers-operator. sandboxed-containers-operator is offered by "
                    "market/redhat"
                ),
            ),
            (READY, {"channel": "fast"}, "has no channel fast of sandboxed-containers-operator, but stable"),
            (READY, {"csv": f"{PACKAGE}.v9"}, f"has no {PACKAGE}.v9, but {V170}, {V180}, {V181}"),
        ],
    )
    def test_a_catalog_without_the_requested_version(self, source, changes, expected):
        assert expected in check_catalog(source, CATALOGS, self.requested_catalog(**changes), NOW).problem

    def test_a_catalog_that_is_not_reached(self):
        source = {"status": {"connectionState": {"lastObservedState": "TRANSIENT_FAILURE"}}}
        progress = check_catalog(source, CATALOGS, self.requested_catalog(), NOW)
        assert (progress.done, progress.problem) == (False, "")
        assert "TRANSIENT_FAILURE, not READY" in progress.summary

    def test_a_catalog_whose_packages_are_not_listed_yet(self):
        source = {"status": {"connectionState": {"lastObservedState": "READY", "lastConnect": ago(seconds=5)}}}
        progress = check_catalog(source, [], self.requested_catalog(), NOW)
        assert (progress.done, progress.problem) == (False, "")
