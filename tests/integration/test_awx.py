"""playbooks/awx.yml against a stand-in for AWX's API, and one of its job templates run as AWX runs it.

AWX itself needs a cluster of its own. The stand-in stores the objects that it receives, and rejects the requests that
AWX rejects. AWX runs jobs with ansible-runner, and so does the test.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import jinja2
import pytest
import yaml

from tests.cluster.launcher import Cluster
from tests.environments import own_environment
from tests.integration.site import NOTHING_CHANGED
from tests.playbook_runs import run_playbook
from tests.support import JSON_OUTPUT, ROOT, ansible_environment

RUNNER = "ansible-runner==2.4.3"
BUILDER = "ansible-builder==3.2.0"
TOKEN = "a-token-of-the-controllers"
SECRET = "a-secret-access-key"
TEMPLATES = ["preflight", "site", "limit", "report", "verify", "policy", "upgrade", "teardown"]

# AWX's own credential types, with the fields that matter here.
MANAGED = {
    "Amazon Web Services": [("username", False), ("password", True), ("security_token", True)],
    "Microsoft Azure Resource Manager": [
        ("subscription", False),
        ("username", False),
        ("password", True),
        ("client", False),
        ("secret", True),
        ("tenant", False),
        ("cloud_environment", False),
    ],
}
ANSWER_TYPES = {
    "text": str,
    "textarea": str,
    "password": str,
    "multiplechoice": str,
    "multiselect": str,
    "integer": int,
    "float": float,
}
REFERENCES = {
    "organization": "organizations",
    "credential_type": "credential_types",
    "inventory": "inventories",
    "project": "projects",
    "execution_environment": "execution_environments",
    "workflow_job_template": "workflow_job_templates",
    "unified_job_template": "unified_job_templates",
}


# The kinds of objects that can be attached to a kind of object.
ATTACHMENTS = {
    "job_templates": ["credentials"],
    "workflow_job_template_nodes": ["success_nodes", "always_nodes"],
    "workflow_approval_templates": [],
}


class RefusedError(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Controller:
    """The state of AWX: objects by collection and id, their attachments and their surveys."""

    def __init__(self):
        collections = (*REFERENCES.values(), *ATTACHMENTS, "credentials")
        self.objects: dict[str, dict[int, dict]] = {name: {} for name in collections}
        self.attached: dict[str, list[dict]] = {}
        self.surveys: dict[str, dict] = {}
        self.writes: list[str] = []
        self._next = 1
        self._create("organizations", {"name": "Default"})
        for name, fields in MANAGED.items():
            inputs = {"fields": [{"id": field, "secret": secret} for field, secret in fields]}
            self._create("credential_types", {"name": name, "managed": True, "inputs": inputs})

    def answer(self, method: str, path: str, query: dict, body: dict) -> tuple[int, dict]:
        if method != "GET":
            self.writes.append(f"{method} {path}")
        collection, *item_path = path.removeprefix("/api/v2/").strip("/").split("/")
        if collection not in self.objects:
            raise RefusedError(404, path)
        if not item_path:
            if method == "POST":
                return 201, self._create(collection, body)
            return 200, self._listed(self._matching(collection, query))
        item = self._item(collection, int(item_path[0]))
        match method, item_path[1:]:
            case "GET", []:
                return 200, without_secrets(self, collection, item)
            case "PATCH", []:
                self._check(collection, body)
                item.update(body)
                return 200, without_secrets(self, collection, item)
            case "GET", ["survey_spec"]:
                return 200, self.surveys.get(item["url"], {})
            case "POST", ["survey_spec"]:
                check_survey(body)
                self.surveys[item["url"]] = body
                return 200, {}
            case "POST", ["create_approval_template"]:
                approval = self._create("workflow_approval_templates", body)
                item["unified_job_template"] = approval["id"]
                item["related"]["unified_job_template"] = approval["url"]
                return 201, approval
            case _, [("credentials" | "success_nodes" | "always_nodes") as what] if what in ATTACHMENTS[collection]:
                attachments = self.attached.setdefault(path, [])
                if method == "GET":
                    return 200, self._listed(attachments)
                kind = "credentials" if what == "credentials" else collection
                attachments.append(self._item(kind, body["id"]))
                return 204, {}
        raise RefusedError(404, path)

    def named(self, collection: str, name: str) -> dict:
        field = "identifier" if collection == "workflow_job_template_nodes" else "name"
        (item,) = self._matching(collection, {field: name})
        return item

    def after(self, identifier: str, condition: str) -> list[str]:
        node = self.named("workflow_job_template_nodes", identifier)
        return [successor["identifier"] for successor in self.attached.get(f"{node['url']}{condition}/", [])]

    def _create(self, collection: str, body: dict) -> dict:
        self._check(collection, body)
        number, self._next = self._next, self._next + 1
        url = f"/api/v2/{collection}/{number}/"
        item = {
            "summary_fields": {},
            **body,
            "id": number,
            "url": url,
            "scm_revision": "1",
            "type": collection.removesuffix("s"),
            "related": {"survey_spec": f"{url}survey_spec/"},
        }
        if "project" in body:
            item["organization"] = self._item("projects", body["project"])["organization"]
        self.objects[collection][number] = item
        if collection in ("job_templates", "workflow_job_templates"):
            self.objects["unified_job_templates"][number] = item
        return without_secrets(self, collection, item)

    def _item(self, collection: str, number: int) -> dict:
        if number not in self.objects[collection]:
            raise RefusedError(404, f"{collection}/{number}")
        return self.objects[collection][number]

    def _matching(self, collection: str, query: dict) -> list[dict]:
        return [
            without_secrets(self, collection, item)
            for item in self.objects[collection].values()
            if all(str(item.get(field)) == str(value) for field, value in query.items())
        ]

    def _listed(self, items: list[dict]) -> dict:
        return {"count": len(items), "next": None, "results": items}

    def _check(self, collection: str, body: dict) -> None:
        for field, kind in REFERENCES.items():
            if body.get(field) and body[field] not in self.objects[kind]:
                raise RefusedError(400, f"{field}: there is no {body[field]}")
        if collection == "job_templates" and not (ROOT / body["playbook"]).is_file():
            raise RefusedError(400, "Playbook not found for project.")
        if collection == "credentials":
            fields = self._item("credential_types", body["credential_type"])["inputs"]["fields"]
            if unknown := set(body["inputs"]) - {field["id"] for field in fields}:
                raise RefusedError(400, f"inputs: {sorted(unknown)}")


def without_secrets(controller: Controller, collection: str, item: dict) -> dict:
    """The object as AWX returns it, without secrets."""
    if collection != "credentials":
        return item
    kind = controller.objects["credential_types"][item["credential_type"]]
    secret = {field["id"] for field in kind["inputs"]["fields"] if field.get("secret")}
    inputs = {name: "$encrypted$" if name in secret else value for name, value in item["inputs"].items()}
    return {**item, "inputs": inputs}


def check_survey(survey: dict) -> None:
    """AWX's validation of a survey, with the messages of its API."""
    if set(survey) != {"name", "description", "spec"} or not survey["spec"]:
        raise RefusedError(400, "a survey has a name, a description and questions")
    variables = [question["variable"] for question in survey["spec"]]
    if len(variables) != len(set(variables)):
        raise RefusedError(400, "two questions have the same variable")
    for question in survey["spec"]:
        if not isinstance(question["required"], bool) or not isinstance(question["question_name"], str):
            raise RefusedError(400, f"{question}")
        default = question["default"]
        if default != "" and not isinstance(default, ANSWER_TYPES[question["type"]]):
            raise RefusedError(400, f"{question}: the default is of another type")
        if question["type"].startswith("multi"):
            chosen = default.splitlines()
            many = question["type"] == "multiplechoice" and len(chosen) > 1
            if many or set(chosen) - set(question["choices"]):
                raise RefusedError(400, f"{question}: the default is none of the choices")


@pytest.fixture(scope="module")
def controller() -> Iterator[tuple[Controller, str]]:
    stored_controller = Controller()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            url = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            try:
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    raise RefusedError(401, "who are you?")
                status, answer = stored_controller.answer(self.command, url.path, dict(parse_qsl(url.query)), body)
            except RefusedError as error:
                status, answer = error.status, {"error": str(error)}
            data = json.dumps(answer).encode() if status != 204 else b""
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-API-Product-Name", "AWX")
            self.send_header("X-API-Product-Version", "24.6.1")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = handle_one  # noqa: N815

        def log_message(self, *_arguments) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield stored_controller, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def play(controller: tuple[Controller, str], cluster: Cluster, tmp_path_factory: pytest.TempPathFactory):
    """Run playbooks/awx.yml; returns its output."""
    variables = {
        "awx_kubeconfig": in_one_file(cluster),
        "awx_cloud_inputs": {"username": "AKIA", "password": SECRET},
        "awx_execution_environment_image": "registry.example.com/peerpods/ee:0.1.0",
    }
    file = tmp_path_factory.mktemp("awx") / "variables.json"
    write(file, json.dumps(variables))

    def run(*arguments: str) -> str:
        completed = run_playbook(
            ["ansible-playbook", str(ROOT / "playbooks/awx.yml"), "-e", f"@{file}", "-vvv", *arguments],
            ansible_environment({"CONTROLLER_HOST": controller[1], "CONTROLLER_OAUTH_TOKEN": TOKEN}),
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        output = completed.stdout + completed.stderr
        assert SECRET not in output
        assert key_of(cluster) not in output
        return output

    return run


def in_one_file(cluster: Cluster) -> str:
    """The administrator's kubeconfig without the names of other files."""
    return cluster.kubectl("config", "view", "--flatten", "--raw")


def key_of(cluster: Cluster) -> str:
    (user,) = yaml.safe_load(in_one_file(cluster))["users"]
    return user["user"]["client-key-data"]


def test_a_dry_run_of_a_first_time_writes_nothing(controller, play):
    play("--check")
    assert controller[0].writes == []


@pytest.fixture(scope="module")
def provisioned(controller, play) -> Controller:
    play()
    return controller[0]


def test_each_playbook_has_a_template(provisioned: Controller):
    templates = provisioned.objects["job_templates"].values()
    assert [template["name"] for template in templates] == [f"Peer pods: {name}" for name in TEMPLATES]
    for template, name in zip(templates, TEMPLATES, strict=True):
        assert template["survey_enabled"] == (template["url"] in provisioned.surveys)
        assert json.loads(template["extra_vars"])["peerpods_playbook"] == name
        credentials = provisioned.attached[f"{template['url']}credentials/"]
        assert sorted(item["name"] for item in credentials) == [
            "Peer pods: cloud",
            "Peer pods: cluster",
        ]


def test_the_workflow_requires_an_approval_between_preflight_and_site(provisioned: Controller):
    assert provisioned.after("preflight", "success_nodes") == ["approval"]
    assert provisioned.after("approval", "success_nodes") == ["site"]
    # A report is most useful after a failed setup.
    assert provisioned.after("site", "always_nodes") == ["report"]
    assert provisioned.after("report", "success_nodes") == provisioned.after("report", "always_nodes") == []
    (approval,) = provisioned.objects["workflow_approval_templates"].values()
    assert approval["timeout"] == 86400
    node = provisioned.named("workflow_job_template_nodes", "approval")
    assert node["unified_job_template"] == approval["id"]
    # The setup has the same survey and gets the same answers.
    workflow = provisioned.named("workflow_job_templates", "Peer pods")
    site = provisioned.named("job_templates", "Peer pods: site")
    assert provisioned.surveys[workflow["url"]] == provisioned.surveys[site["url"]]


def test_a_second_run_changes_nothing(provisioned: Controller, play):
    before = list(provisioned.writes)
    assert NOTHING_CHANGED.search(play())
    assert provisioned.writes == before


def launched(provisioned: Controller, name: str, answers: dict) -> dict:
    """The extra variables of a job, by its template and the answers to its survey."""
    template = provisioned.named("job_templates", f"Peer pods: {name}")
    default_answers = {
        question["variable"]: question["default"] for question in provisioned.surveys[template["url"]]["spec"]
    }
    assert answers.keys() <= default_answers.keys()
    return {**json.loads(template["extra_vars"]), **default_answers, **answers}


def test_answers_become_valid_options_of_the_roles(provisioned: Controller):
    """In AWX, the answer to a choice of true and false is a string."""
    variables = {
        **launched(provisioned, "site", {"node_capacity_console_dashboard_answer": "true"}),
        **launched(
            provisioned,
            "policy",
            {"policy_namespaces": "team-a\nteam-b\n", "policy_warn_workloads_answer": "false"},
        ),
        # Without answers, the defaults of the survey apply.
        **launched(provisioned, "teardown", {}),
    }
    expected = {
        "node_capacity_console_dashboard": True,
        "policy_namespaces": ["team-a", "team-b"],
        "policy_warn_workloads": False,
        "teardown_force": False,
    }
    message = {option: f"{{{{ {option} }}}}" for option in expected}
    # The role converts a list.
    message["policy_namespaces"] = "{{ policy_namespaces | osc.peerpods.as_list }}"
    completed = subprocess.run(
        ["ansible", "localhost", "-m", "debug", "-a", json.dumps({"msg": message}), "-e", json.dumps(variables)],
        env=ansible_environment(JSON_OUTPUT),
        capture_output=True,
        text=True,
        check=True,
    )
    (task,) = json.loads(completed.stdout)["plays"][0]["tasks"]
    assert task["hosts"]["localhost"]["msg"] == expected


@pytest.fixture
def run_template(provisioned: Controller, tmp_path: Path):
    """Run a job template as AWX does, with answers to its survey; returns its artifacts."""

    def run(name: str, **answers: object) -> dict:
        template = provisioned.named("job_templates", f"Peer pods: {name}")
        environment = {}
        for credential in provisioned.attached[f"{template['url']}credentials/"]:
            stored = provisioned.objects["credentials"][credential["id"]]
            kind = provisioned.objects["credential_types"][stored["credential_type"]]
            if kind.get("managed"):
                continue  # AWX's own, and this job needs no cloud.
            file = tmp_path / "env" / "credential"
            inject = {**stored["inputs"], "tower": {"filename": str(file)}}
            write(file, rendered(kind["injectors"]["file"]["template"], inject))
            environment |= {key: rendered(value, inject) for key, value in kind["injectors"]["env"].items()}
        write(tmp_path / "env/extravars", json.dumps(launched(provisioned, name, answers)))
        write(tmp_path / "env/envvars", json.dumps(environment))
        write(tmp_path / "inventory/hosts", "")
        (tmp_path / "project").symlink_to(ROOT)
        environment_of_job = ansible_environment()
        # The checkout contains the link that makes it a collection.
        del environment_of_job["ANSIBLE_COLLECTIONS_PATH"]
        completed = subprocess.run(
            [own_environment(RUNNER) / "ansible-runner", "run", tmp_path, "-p", template["playbook"], "--ident", "job"],
            env=environment_of_job,
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        events = [json.loads(event.read_text()) for event in (tmp_path / "artifacts/job/job_events").glob("*.json")]
        (stats,) = [event for event in events if event["event"] == "playbook_on_stats"]
        return stats["event_data"]["artifact_data"]

    return run


def rendered(template: str, variables: dict) -> str:
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template).render(variables)


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(content)


def test_a_job_reads_the_answers_of_the_survey_and_publishes_its_result(run_template, cluster: Cluster):
    """The action is Warn, so that the peer pods of other tests are not rejected in the meantime."""
    try:
        artifacts = run_template(
            "policy",
            policy_namespaces="team-a\nteam-b\n",
            policy_actions=["Warn"],
            policy_warn_workloads_answer="false",
        )
        assert artifacts["peerpods_policy"]["namespaces"] == ["team-a", "team-b"]
        assert artifacts["peerpods_policy"]["actions"] == ["Warn"]
        bindings = cluster.get("validatingadmissionpolicybindings", "-l", "app.kubernetes.io/part-of=osc.peerpods")[
            "items"
        ]
        # Workloads have no binding.
        assert [(binding["metadata"]["name"], binding["spec"]["validationActions"]) for binding in bindings] == [
            ("osc-peerpods-namespaces", ["Warn"])
        ]
    finally:
        cluster.delete(
            "validatingadmissionpolicies,validatingadmissionpolicybindings",
            "-l",
            "app.kubernetes.io/part-of=osc.peerpods",
        )


def test_the_execution_environment_can_be_built(tmp_path: Path):
    """The definition is valid and all files that it names exist; no registry is used."""
    subprocess.run(
        [
            own_environment(BUILDER) / "ansible-builder",
            "create",
            "--context",
            tmp_path,
            "--file",
            ROOT / "execution-environment.yml",
        ],
        check=True,
        cwd=ROOT,
    )
    for name, source_path in (
        ("requirements.txt", "requirements.txt"),
        ("requirements.yml", "collections/requirements.yml"),
        ("bindep.txt", "bindep.txt"),
    ):
        assert (tmp_path / "_build" / name).read_text() == (ROOT / source_path).read_text()
    definition = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
    containerfile = (tmp_path / "Containerfile").read_text()
    assert re.search(
        f'^ARG EE_BASE_IMAGE="{re.escape(definition["images"]["base_image"]["name"])}"',
        containerfile,
        re.MULTILINE,
    )
