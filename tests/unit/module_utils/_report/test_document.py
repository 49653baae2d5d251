"""The content of a report, and that its page, JUnit file and text are valid for any data of a cluster."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._report import document
from playwright.sync_api import Browser, sync_playwright

from tests.support import ROOT, ansible_environment

TEMPLATES = ROOT / "roles/report/templates"
NAMESPACE = "openshift-sandboxed-containers-operator"
MADE_AT = "2026-11-25T10:15:16Z"
UNSCHEDULABLE = "0/4 nodes are available: 3 Insufficient kata.peerpods.io/vm."

FINDINGS = [
    {
        "check": "version",
        "title": "Cluster version",
        "status": "ok",
        "found": "OpenShift 4.16.21.",
        "why": "",
        "fix": "",
    },
    {
        "check": "quota",
        "title": "vCPU quota",
        "status": "warning",
        "found": "Room for 14 more VMs.",
        "why": "30 are wanted.",
        "fix": "Request a higher quota.",
    },
    {
        "check": "ports",
        "title": "Ports",
        "status": "error",
        "found": '9000/tcp of "node" is closed.',
        "why": "The tunnel runs over it.",
        "fix": "Open it:\naws ec2 authorize-security-group-ingress",
    },
    {
        "check": "subnet",
        "title": "Free addresses",
        "status": "unknown",
        "found": "EC2 refused.",
        "why": "Each VM takes one.",
        "fix": "Allow ec2:DescribeSubnets.",
    },
]

CLUSTER = {
    "infrastructure_name": "demo-x7k2p",
    "platform": "AWS",
    "region": "eu-central-1",
    "version": "4.16.21",
    "workers": [{"name": "n1"}, {"name": "n2"}],
}
OPERATORS = {
    "resources": [
        {
            "metadata": {"name": "sandboxed-containers-operator.v1.10.1"},
            "spec": {"version": "1.10.1"},
            "status": {"phase": "Succeeded"},
        },
        # A CSV that is copied into every namespace.
        {"metadata": {"name": "elasticsearch-operator.v5.8.1"}, "spec": {"version": "5.8.1"}},
    ]
}
AWS = {
    "reason": "sg-1 (node) is on all 3 instances.",
    "groups": [
        {
            "group_id": "sg-1",
            "group_name": "node",
            "opened": [
                {"port": 15150, "protocol": "tcp", "direction": direction} for direction in ("ingress", "egress")
            ],
            "already_open": [{"port": 9000, "protocol": "tcp", "covered_by": "itself (tcp 9000)"}],
        },
    ],
}
AZURE = {
    "reason": "demo-nsg is on all subnets.",
    "network_security_groups": [
        {
            "name": "demo-nsg",
            "created": [{"name": "ours", "properties": {}}],
            "updated": [],
            "unchanged": ["there"],
            "covered": [{"name": "let", "covered_by": "AllowVnetInBound (65000)"}],
            "shadowed": [{"name": "late", "shadowed_by": "Deny (100) comes first."}],
        },
    ],
    "unfiltered": ["The subnet worker has no network security group."],
}


OPERATOR = {
    "version": "1.8.1",
    "known": True,
    "limit_in": "PeerPodConfig",
    "advertiser": "peerpodconfig-ctrl",
}


def node(name: str, slots: int | None, used: int, unaccounted: int = 0, pools=("ours",)) -> dict:
    return {
        "name": name,
        "pools": [f"{NAMESPACE}/{pool}" for pool in pools],
        "capacity": slots,
        "allocatable": slots,
        "used": used,
        "unaccounted": unaccounted,
        "blocked": None,
        "free": max(0, (slots or 0) - used + unaccounted),
    }


def pool(name: str = "ours", **fields: object) -> dict:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "store": {"kind": "PeerPodConfig", "namespace": NAMESPACE, "name": name, "key": None},
        "limit": 10,
        "slots": 10,
        "cloud_bound": None,
        "node_selector": {"pool": name},
        "cloud_secret_name": "peer-pods-secret",
        "config_map_name": "peer-pods-cm",
        "instance_type": None,
        "setup_completed": True,
        "selected_nodes": 3,
        "advertised_nodes": 2,
        **fields,
    }


def pod(name: str, node_name: str | None, reason: str | None, message: str | None = None) -> dict:
    return {"name": name, "namespace": "a", "node": node_name, "reason": reason, "message": message}


def peer_pods(nodes: list[dict], pools=(), namespaces=(), pending=(), bounds=None) -> dict:
    """The return of osc.peerpods.peerpod_info."""
    keys = ("capacity", "allocatable", "used", "unaccounted", "free")
    return {
        "changed": False,
        "operator": OPERATOR,
        "msg": None,
        "pools": list(pools),
        "cloud_bounds": bounds or {},
        "nodes": nodes,
        "namespaces": list(namespaces),
        "pending": list(pending),
        "totals": {
            "nodes": len(nodes),
            **{key: sum(row[key] or 0 for row in nodes) for key in keys},
            "unscheduled": sum(not row["node"] for row in pending),
        },
        "invocation": {"module_args": {"api_key": "sha256~very-secret"}},
    }


SMALL = peer_pods(
    [
        node("unused", 10, 0),
        node("half", 10, 5, unaccounted=1),
        node("full", 10, 10),
        node("overfull", 4, 6, pools=("ours", "other")),
        node("none", None, 1, pools=()),
        node("a-third", 3, 1),
    ],
    [pool(slots=7, cloud_bound="instance-quota"), pool("other", limit=None, slots=None)],
    [
        {"name": "few", "used": 1, "unscheduled": 1},
        {"name": "many", "used": 20, "unscheduled": 0},
    ],
    [
        pod("on-node", "half", None),
        *(pod(f"waits-{index}", None, "Unschedulable", UNSCHEDULABLE) for index in range(7)),
        pod("pulls", "half", "ImagePullBackOff", "no such image"),
    ],
    {"instance-quota": 64},
)


def report(findings: list[dict] = FINDINGS, **readings: object) -> dict:
    return document.document(findings, title="Peer pods", made_at=MADE_AT, **readings)


FULL = report(made_by="alice", cluster=CLUSTER, operators=OPERATORS, peer_pods=SMALL, networking=AWS)


# -- The content ----------------------------------------------------------------------------------


def test_nodes_are_sorted_by_usage():
    assert [(n["name"], n["state"], n["used_percent"]) for n in FULL["capacity"]["nodes"]] == [
        ("full", "full", 100),
        # A node with more peer pods than slots is shown as full.
        ("overfull", "full", 100),
        ("half", "in_use", 50),
        ("a-third", "in_use", 33),
        ("unused", "unused", 0),
        ("none", "no_slots", None),
    ]


CORDONED = report(peer_pods=peer_pods([{**node("n", 10, 2), "blocked": "cordoned", "free": 0}]))


def test_a_node_that_takes_no_further_peer_pod_is_not_full():
    (row,) = CORDONED["capacity"]["nodes"]
    assert (row["state"], row["used_percent"]) == ("blocked", 20)


def test_one_free_slot_of_many_is_not_full():
    (row,) = report(peer_pods=peer_pods([node("n", 1000, 999)]))["capacity"]["nodes"]
    assert (row["state"], row["used_percent"]) == ("in_use", 99)


def test_the_totals_of_the_nodes_of_a_pool():
    own_pool, other_pool = FULL["capacity"]["pools"]
    assert [own_pool[key] for key in ("allocatable", "used", "free", "used_percent")] == [
        37,
        22,
        18,
        59,
    ]
    assert [other_pool[key] for key in ("allocatable", "used", "free")] == [4, 6, 0]
    assert (own_pool["slots"], other_pool["limit"]) == (7, None)


def test_pods_with_the_same_reason_are_grouped():
    assert [(group["reason"], group["message"], len(group["pods"])) for group in FULL["capacity"]["pending"]] == [
        ("Unschedulable", UNSCHEDULABLE, 7),
        (None, None, 1),
        ("ImagePullBackOff", "no such image", 1),
    ]
    assert FULL["capacity"]["pending"][2]["pods"] == [{"namespace": "a", "name": "pulls", "node": "half"}]


def test_namespaces_with_the_most_peer_pods_come_first():
    assert [row["name"] for row in FULL["capacity"]["namespaces"]] == ["many", "few"]


def test_only_the_operator_is_shown():
    assert FULL["operators"] == [
        {"name": "sandboxed-containers-operator.v1.10.1", "version": "1.10.1", "phase": "Succeeded"}
    ]


@pytest.mark.parametrize(
    ("reading", "rules"),
    [
        (
            AWS,
            [
                ("15150/tcp", "opened", None, "sg-1 (node)"),
                ("15150/tcp egress", "opened", None, "sg-1 (node)"),
                ("9000/tcp", "already_open", "itself (tcp 9000)", "sg-1 (node)"),
            ],
        ),
        (
            AZURE,
            [
                ("ours", "opened", None, "demo-nsg"),
                ("there", "already_open", "a rule of that name", "demo-nsg"),
                ("let", "already_open", "AllowVnetInBound (65000)", "demo-nsg"),
                ("late", "shadowed", "Deny (100) comes first.", "demo-nsg"),
            ],
        ),
    ],
)
def test_ports_on_both_clouds(reading, rules):
    ports = report(networking=reading)["ports"]
    assert [tuple(row[key] for key in ("rule", "state", "by", "where")) for row in ports["rules"]] == rules
    assert ports["unfiltered"] == reading.get("unfiltered", [])


def test_results_that_were_not_requested_or_were_rejected():
    assert report() == {
        **dict.fromkeys(("made_by", "cluster", "operators", "capacity", "ports")),
        "format": 1,
        "title": "Peer pods",
        "made_at": MADE_AT,
        "not_known": [],
        "findings": FINDINGS,
    }
    refused = {"msg": "refused", "failed": False}
    written_report = report(cluster=refused, operators=refused, peer_pods={"failed": False})
    assert written_report["not_known"] == [
        {"what": "cluster", "why": "refused"},
        {"what": "operator", "why": "refused"},
        {"what": "capacity", "why": "The reason is unknown."},
    ]
    assert (written_report["cluster"], written_report["operators"], written_report["capacity"]) == (None, None, None)


def test_arguments_of_modules_are_left_out():
    assert "very-secret" in json.dumps(SMALL)
    assert "very-secret" not in json.dumps(FULL)


# -- The page -------------------------------------------------------------------------------------

# It begins like a version of the operator; otherwise the page would not show it.
HOSTILE = (
    "sandboxed-containers-operator.</td></title></style><script>alert(1)</script><img onerror=x>"
    "<!-- ]]> \"'&amp; {{ 7 * 7 }} {% if %} é\n"
)
# Characters that neither XML nor HTML allows, escaped or not.
NO_TEXT = "\x00\x1b\x7f\x85\ufffe\udc80"

LARGE = peer_pods(
    [node(f"ip-10-0-{i // 256}-{i % 256}.eu-central-1.compute.internal", 8, i % 9) for i in range(500)],
    [pool(selected_nodes=500, advertised_nodes=500)],
    [{"name": f"team-{i:02}", "used": i, "unscheduled": 1} for i in range(60)],
    [pod(f"batch-{i:03}", None, "Unschedulable", UNSCHEDULABLE) for i in range(200)],
)


def with_text(value: object, text: str, key: str = "") -> object:
    """The document with `text` in each field that the cluster controls."""
    if isinstance(value, dict):
        return {name: with_text(item, text, name) for name, item in value.items()}
    if isinstance(value, list):
        return [with_text(item, text, key) for item in value]
    return text if isinstance(value, str) and key != "status" else value


def all_of(text: str) -> dict:
    """A report in which everything is `text`."""
    refused = {"msg": "refused"}
    peer_pods = {**SMALL, "cloud_bounds": {text: 64}, "msg": text}
    readings = {
        "operators": OPERATORS,
        "peer_pods": peer_pods,
        "networking": AZURE,
        "cluster": CLUSTER,
    }
    return {
        **report(with_text(FINDINGS, text), made_by=text, **with_text(readings, text)),
        "not_known": with_text(report(cluster=refused)["not_known"], text.rstrip(NO_TEXT)),
        "title": text.rstrip(NO_TEXT),
    }


DOCUMENTS = {
    "full": FULL,
    "azure": report(networking=AZURE),
    "cordoned": CORDONED,
    "harmless": all_of("sandboxed-containers-operator.HARMLESS"),
    "hostile": all_of(HOSTILE + NO_TEXT),
    "large": report(peer_pods=LARGE),
    "bare": report([], cluster=CLUSTER, operators={"resources": []}, peer_pods=peer_pods([])),
    "refused": report(FINDINGS[:1], peer_pods={"msg": "The API server cannot be reached."}),
}
VOID = {"meta", "br", "hr", "img", "input", "link"}
# Elements that a browser displays on a separate line or in a separate cell.
SEPARATE_TAGS = {"dd", "dt", "small", "td", "th"}


class Page(HTMLParser):
    """An HTML page as its elements with their attributes, and its text; raises where tags do not match."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.style = self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.text += " " * (tag in SEPARATE_TAGS)
        assert len(attrs) == len(dict(attrs)), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self._open[-1:] == ["style"]:
            self.style += data
        else:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] for _tag, attrs in self.elements if name in attrs]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """The files that the role's templates produce from DOCUMENTS, by name and extension.

    A single template produces all of them, since each task of Ansible takes time.
    """
    directory = tmp_path_factory.mktemp("report")
    shutil.copytree(TEMPLATES, directory, dirs_exist_ok=True)
    mark = "~~~ {} ~~~\n".format
    extensions = ("html", "junit.xml", "json")
    (directory / "all.j2").write_text(
        "{% for name, report_document in documents.items() %}\n"
        + "\n".join(
            mark(f"{{{{ name }}}}.{extension}") + f"{{% include 'report.{extension}.j2' %}}" for extension in extensions
        )
        + "\n{% endfor %}\n"
    )
    (directory / "documents.json").write_text(json.dumps(DOCUMENTS))
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {
            "ansible_python_interpreter": sys.executable,
            "documents": "{{ read.stdout | from_json }}",
            "report_name": "report",
            "report_formats": ["html", "json"],
        },
        # The value comes from a module, like values of a cluster: the return of a module is not a template.
        "tasks": [
            {
                "ansible.builtin.command": {"argv": ["cat", str(directory / "documents.json")]},
                "register": "read",
            },
            {
                "ansible.builtin.template": {
                    "src": "all.j2",
                    "dest": str(directory / "all"),
                    "lstrip_blocks": True,
                }
            },
        ],
    }
    (directory / "play.yml").write_text(json.dumps([play]))
    completed = subprocess.run(
        ["ansible-playbook", "play.yml"],
        env=ansible_environment(),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    _before, *parts = re.split(r"~~~ (\S+) ~~~\n", (directory / "all").read_text())
    files = dict(zip(parts[::2], parts[1::2], strict=True))
    return lambda name, extension: files[f"{name}.{extension}"]


@pytest.fixture(params=DOCUMENTS)
def page(request: pytest.FixtureRequest, written) -> Page:
    """The pages, in turn."""
    return Page(written(request.param, "html"))


def test_a_page_is_well_made(page: Page):
    (html,) = page.all("html")
    assert html["lang"] == "en"
    levels = [int(tag[1]) for tag, _attributes in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
    assert all(attributes["scope"] in ("row", "col") for attributes in page.all("th"))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {target.removeprefix("#") for target in page.attributes("href")} <= set(ids)
    # An element that only repeats the text next to it is hidden from screen readers.
    assert all(
        attrs.get("aria-hidden") == "true" for attrs in page.all("span") if (attrs.get("class") or "").startswith("bar")
    )


def test_a_page_is_self_contained(page: Page):
    assert not page.all("script", "link", "img", "iframe", "object", "embed", "form", "base")
    assert not [name for _tag, attrs in page.elements for name in attrs if name.startswith("on")]
    assert not page.attributes("src")
    assert "url(" not in page.style
    assert "@import" not in page.style
    policies = [a["content"] for a in page.all("meta") if a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_data_of_a_cluster_are_escaped(written):
    harmless, hostile = (Page(written(name, "html")) for name in ("harmless", "hostile"))
    assert hostile.elements == harmless.elements
    visible = HOSTILE.strip() + " " + "\ufffd" * len(NO_TEXT)
    times = harmless.words.count("HARMLESS")
    assert times > 30
    assert hostile.words.count(" ".join(HOSTILE.split())) == times
    assert visible in hostile.words
    assert not set(NO_TEXT) & set(written("hostile", "html"))
    assert json.loads(written("hostile", "json")) == DOCUMENTS["hostile"]


def suite(source: str) -> ElementTree.Element:
    (test_suite,) = ElementTree.fromstring(source.encode())
    return test_suite


def test_junit_has_each_finding_as_a_test(written):
    test_suite = suite(written("full", "junit.xml"))
    assert {key: test_suite.get(key) for key in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "Peer pods",
        "tests": "4",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    assert test_suite.get("timestamp") == "2026-11-25T10:15:16"
    cases = {case.get("name"): case for case in test_suite}
    assert list(cases) == [finding["check"] for finding in FINDINGS]
    assert {name: [output.tag for output in case] for name, case in cases.items()} == {
        "version": [],
        "quota": ["system-out"],
        "ports": ["failure"],
        "subnet": ["skipped"],
    }
    failure, skipped = cases["ports"][0], cases["subnet"][0]
    assert failure.get("message") == FINDINGS[2]["found"]
    assert failure.text.splitlines() == [
        'Ports: 9000/tcp of "node" is closed.',
        "The tunnel runs over it.",
        "Open it:",
        "aws ec2 authorize-security-group-ingress",
    ]
    assert skipped.get("message") == "EC2 refused."
    assert cases["quota"][0].text.startswith("Warning: vCPU quota: Room for 14 more VMs.")


def test_junit_is_valid_xml_for_any_finding(written):
    harmless, hostile = (suite(written(name, "junit.xml")) for name in ("harmless", "hostile"))
    assert [e.tag for e in hostile.iter()] == [e.tag for e in harmless.iter()]
    assert hostile.find(".//failure").get("message").startswith(HOSTILE.strip())
    assert HOSTILE.strip() in hostile.find(".//failure").text


def test_findings_are_sorted_by_severity_and_have_a_next_step(written):
    page = Page(written("full", "html"))
    titles = [
        page.words.index(f"{badge} {title}")
        for badge, title in (("Error", "Ports"), ("Warning", "vCPU quota"), ("Unknown", "Free addresses"))
    ]
    assert titles == sorted(titles)
    assert "What to do Open it: aws ec2 authorize" in page.words
    assert "1 error, 1 warning, 1 unknown" in page.words
    assert "1 check passed" in page.words
    assert '9000/tcp of "node" is closed.' in page.words


def test_the_page_explains_a_blocked_node(written: Callable[[str, str], str]):
    assert "Takes no further peer pod: cordoned." in Page(written("cordoned", "html")).words


def test_the_page_of_a_small_cluster(written):
    words = Page(written("full", "html")).words
    for output in (
        "Cluster demo-x7k2p on AWS eu-central-1 2026-11-25 10:15:16 UTC, by alice",
        "In use 23 of 37 slots",
        "Pending 9 7 not scheduled",
        "Limit 10 per node, reduced to 7 by the vCPU quota. 2 of 3 nodes advertise it.",
        "Its limit is not valid.",
        "Operator 1.8.1 stores its limit in PeerPodConfig; peerpodconfig-ctrl advertises it.",
        "The cloud has room for 64 peer pods in total, running ones included (limited by the vCPU quota).",
        "half 1 not counted by the scheduler: the webhook has not mutated them. 10 5 6",
        f"overfull In 2 pools: {NAMESPACE}/ours, {NAMESPACE}/other. 2 more than it",
        "none In no pool, so it has no limit. 1 more than it advertises. – 1 0",
        f"Unschedulable 7 pods {UNSCHEDULABLE} Show the pods a/waits-0",
        "No reason reported yet 1 pod a/on-node on half",
        "15150/tcp Opened by this collection sg-1 (node)",
        "9000/tcp Already open, by itself (tcp 9000) sg-1 (node)",
        "OpenShift 4.16.21 Operator 1.10.1 sandboxed-containers-operator.v1.10.1, Succeeded",
    ):
        assert output in words, (output, words)


def test_500_nodes_are_collapsed_in_a_small_page(written):
    source = written("large", "html")
    page = Page(source)
    assert len(source) < 200_000
    assert page.text.count("compute.internal") == 500
    assert len(page.all("details")) == 6  # Checks passed, three kinds of nodes, namespaces, pods.
    assert not [attrs for attrs in page.all("details") if "open" in attrs]
    assert "Full 55 nodes, 440 used, 0 free" in page.words


def test_data_that_could_not_be_read_are_reported(written):
    words = Page(written("refused", "html")).words
    assert "Not readable: capacity. The API server cannot be reached." in words
    assert "Operator Not installed" in Page(written("bare", "html")).words
    assert "shadowed" in Page(written("azure", "html")).text.lower()
    assert "The subnet worker has no network security group." in Page(written("azure", "html")).text


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    parts = [int(colour[position : position + 2], 16) / 255 for position in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(scheme: str):
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATES / "report.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", blocks[scheme == "dark"]))
    assert len(colours) == 12
    for ground in ("page", "card"):
        for name in ("text", "soft", "error", "warning", "unknown", "ok"):
            light, dark = sorted(map(luminance, (colours[ground], colours[name])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, name)


# For each visible text, on the background of the nearest element that is not transparent: the
# contrast, as WCAG 2 has it, where it is too small to be read with ease; and how many texts there are.
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => channels(colour).slice(0, 3).map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return channels(colour)[3] === 0 ? ground(element.parentElement) : colour;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let [seen, faint] = [0, []];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [light, dark] = [getComputedStyle(element).color, ground(element)]
      .map(luminance).sort((one, other) => other - one);
    const contrast = (light + 0.05) / (dark + 0.05);
    seen += 1;
    if (contrast < 4.5) faint.push([walker.currentNode.data.trim(), contrast]);
  }
  return [seen, faint];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("There is no browser: sudo apt-get install chromium")
    with sync_playwright() as playwright:
        # The sandbox does not support root, the user of tests in containers.
        running = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False)
        yield running
        running.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_page_fits_a_phone(browser: Browser, written, tmp_path: Path, name: str, scheme: Literal["light", "dark"]):
    """Nothing overflows the screen or is too faint, and the browser reports no error."""
    (tmp_path / "report.html").write_text(written(name, "html"))
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, color_scheme=scheme
    )
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    overflowing = "all => all.filter((one) => one.getBoundingClientRect().right > 360.5).length"
    assert page.locator("body *").evaluate_all(overflowing) == 0
    checked, faint = page.evaluate(CONTRASTS)
    assert checked > 5
    assert faint == []
    # Touch targets have at least the size that WCAG 2.2 requires.
    heights = "all => all.map((one) => one.getBoundingClientRect().height)"
    assert all(height >= 24 for height in page.locator("a, summary").evaluate_all(heights))
    assert complaints == []
    context.close()


def test_a_browser_runs_no_script_from_data_of_a_cluster(browser: Browser, written, tmp_path: Path):
    """Even without escaping: the policy of the page forbids scripts."""
    source = written("full", "html").replace("</main>", "<script>document.title = 'ran'</script></main>")
    (tmp_path / "report.html").write_text(source)
    page, complaints = browser.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.title() != "ran"
    assert len(complaints) == 1
    assert "Content Security Policy" in complaints[0]


def test_the_cause_of_a_finding_is_kept():
    plain = dict.fromkeys(("check", "title", "status", "found", "why", "fix"), "x")
    assert report([{**plain, "cause": "quota"}, {**plain, "cause": ""}])["findings"] == [
        {**plain, "cause": "quota"},
        plain,
    ]
