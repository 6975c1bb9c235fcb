"""The Kustomize folders: built by kubectl itself, held against Kubernetes' schemas and KEDA's, and fitting the application.

Nothing here has been in a cluster: what a scheduler, a network plug-in or KEDA makes of it these tests cannot tell.
"""

import re
import shutil
import subprocess
import sysconfig
from dataclasses import fields
from importlib import import_module
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.config import Settings, env_name
from app.gateway.http.long_poll import MAX_WAIT_SECONDS
from app.webhooks.public_addresses import AddressRules

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
README = (KUBERNETES / "README.md").read_text()
OVERLAYS = ("production", "small")
MODULES = ("gateway", "orders", "payments", "webhooks")
WORKERS = ("orders", "payments", "webhooks")
CUSTOM = {"ScaledObject": "keda.v1alpha1", "PodMonitor": "prometheus_operator.v1"}
OLDEST, NEWEST = "1.30", "1.37"
SECRET = {"MONGODB_URI", "BUS_URL", "AUTH_JWT_KEY", "AUTH_JWT_JWKS", "CURSOR_KEY"}
NOT_SETTINGS = {"WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"}
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
every_module = pytest.mark.parametrize("module", MODULES)
pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def built():
    """Builds an overlay; returns its objects by kind and name."""
    kubectl = shutil.which("kubectl", path=sysconfig.get_path("scripts"))
    made = {}

    def build(overlay):
        if overlay not in made:
            command = [kubectl, "kustomize", str(KUBERNETES / "overlays" / overlay)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            # kubectl reports a deprecated field on standard error.
            assert (done.returncode, done.stderr) == (0, "")
            objects = list(yaml.safe_load_all(done.stdout))
            made[overlay] = {(one["kind"], one["metadata"]["name"]): one for one in objects}
            assert len(made[overlay]) == len(objects)
        return made[overlay]

    return build


def pods(objects):
    """Returns the template of every pod by the name of its deployment or job."""
    for (kind, name), one in objects.items():
        if kind == "Deployment":
            yield name, one["spec"]["template"]
        elif kind == "CronJob":
            yield name, one["spec"]["jobTemplate"]["spec"]["template"]


def container(objects, name):
    [found] = next(template for pod, template in pods(objects) if pod == name)["spec"]["containers"]
    return found


def environment(objects, name):
    """Returns a container's environment: config maps first, then its own variables."""
    found = container(objects, name)
    maps = [objects["ConfigMap", one["configMapRef"]["name"]]["data"] for one in found.get("envFrom", ())]
    return {key: value for data in maps for key, value in data.items()} | {
        one["name"]: one["value"] for one in found.get("env", ())
    }


# --- schemas ---
# The packages with the schemas take seconds to import, so only the tests that use them import them.


@every_overlay
def test_every_object_is_valid_for_kubernetes_or_an_operator(built, overlay):
    for (kind, name), one in built(overlay).items():
        if kind in CUSTOM:
            model = getattr(import_module(f"cloudcoil.models.{CUSTOM[kind]}"), kind)
            kept = model.model_validate(one).model_dump(mode="json", by_alias=True, exclude_unset=True)
            assert kept == one, f"{kind} {name} has members that its schema does not know"
        else:
            import_module("kubernetes_validate").validate(one, NEWEST, strict=True)


def test_every_object_is_valid_for_the_oldest_supported_kubernetes(built):
    for (kind, _), one in built("production").items():
        if kind not in CUSTOM:
            import_module("kubernetes_validate").validate(one, OLDEST, strict=True)
    assert f"Kubernetes {OLDEST} or later" in README


def test_the_small_one_needs_no_operator(built):
    assert not {kind for kind, _ in built("small")} & set(CUSTOM)


# --- pods ---


@every_overlay
def test_every_pod_has_the_least_rights(built, overlay):
    objects = built(overlay)
    for name, template in pods(objects):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert objects["ServiceAccount", spec["serviceAccountName"]]["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] == name
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in (ROOT / "Dockerfile").read_text()
        [own] = spec["containers"]
        assert own["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert "memory" in own["resources"]["limits"]
        assert set(own["resources"]["requests"]) == {"cpu", "memory"}
        assert {mount["mountPath"] for mount in own["volumeMounts"] if not mount.get("readOnly")} == {"/tmp"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all(set(volume) - {"name"} <= {"secret", "emptyDir"} for volume in spec["volumes"])
    assert objects["Namespace", "orderflow"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@every_overlay
def test_one_image_runs_everywhere(built, overlay):
    objects = built(overlay)
    assert {container(objects, name)["image"] for name, _ in pods(objects)} == {"registry.example/orderflow:1"}
    assert container(objects, "gateway").get("command") is None
    assert all(container(objects, module)["command"] == ["flask", "--app", "app.main", "worker"] for module in WORKERS)
    assert all(container(objects, module)["ports"] == [{"name": "http", "containerPort": 7000}] for module in MODULES)


@every_overlay
def test_every_name_in_the_environment_is_a_setting_and_no_secret_is_there(built, overlay):
    settings = {env_name(field.name) for field in fields(Settings)}
    settings |= {f"{name}_FILE" for name in settings} | NOT_SETTINGS
    objects = built(overlay)
    for name, _ in pods(objects):
        assert set(environment(objects, name)) <= settings, name
        assert not set(environment(objects, name)) & SECRET
        assert all("valueFrom" not in one for one in container(objects, name)["env"])
    assert not any(kind == "Secret" for kind, _ in objects)


@every_overlay
@pytest.mark.parametrize("name", [*MODULES, "doctor"])
def test_a_pod_is_given_what_the_application_starts_with(built, overlay, name, tmp_path):
    objects = built(overlay)
    image = dict(re.findall(r"(PORT|BIND)=(\S+)", (ROOT / "Dockerfile").read_text()))
    environ = image | environment(objects, name)
    template = next(template for pod, template in pods(objects) if pod == name)
    [mount] = [one for one in container(objects, name)["volumeMounts"] if one["name"] == "secrets"]
    assert template["spec"]["volumes"][0]["secret"] == {"secretName": name, "defaultMode": 0o440}
    for key, value in environ.items():
        if key.endswith("_FILE"):
            assert value.startswith(f"{mount['mountPath']}/")
            file = Path(value).name
            assert f"--from-file={file}=" in README or f"--from-literal={file}=" in README
            given = {
                "mongodb-uri": "mongodb://u:a-long-one@db.example/",
                "bus-url": "amqps://u:a-long-one@broker.example/",
            }
            (tmp_path / file).write_text(given.get(file, "{}"))
            environ[key] = str(tmp_path / file)
    settings = Settings.read(environ)
    assert settings.identity == (name == "gateway")
    if name in MODULES:
        assert settings.modules == name
        assert settings.database_of(name) == f"orderflow_{name}"


# --- coming and going ---


@every_overlay
@every_module
def test_probes_ask_whether_it_lives_before_it_is_killed_and_whether_it_serves_before_it_is_sent_anything(
    built, overlay, module, app
):
    found = container(built(overlay), module)
    probes = {name: found[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: one["path"] for name, one in probes.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz",
    }  # fmt: skip
    assert {one["port"] for one in probes.values()} == {"http"}
    assert {one["path"] for one in probes.values()} <= {rule.rule for rule in app.url_map.iter_rules()}


@every_overlay
@every_module
def test_a_pod_has_time_to_end_in_order(built, overlay, module, gunicorn):
    spec = built(overlay)["Deployment", module]["spec"]["template"]["spec"]
    pause = container(built(overlay), module).get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
    assert spec["terminationGracePeriodSeconds"] > pause["sleep"]["seconds"] + gunicorn()["graceful_timeout"]
    assert (pause["sleep"]["seconds"] > 0) == (module == "gateway")


def test_an_ingress_controller_finds_open_what_it_kept_open(built, gunicorn):
    given = environment(built("production"), "gateway")
    # nginx keeps connections for 60 s, as most controllers do.
    assert gunicorn(GUNICORN_CMD_ARGS=given["GUNICORN_CMD_ARGS"])["keepalive"] > 60 > MAX_WAIT_SECONDS
    assert gunicorn(WEB_CONCURRENCY=given["WEB_CONCURRENCY"])["workers"] == 1


@every_overlay
@every_module
def test_a_deployment_rolls_over_without_a_gap_and_a_node_takes_no_more_than_one(built, overlay, module):
    objects = built(overlay)
    spec = objects["Deployment", module]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert "replicas" not in spec
    labels = spec["template"]["metadata"]["labels"]
    spread = spec["template"]["spec"]["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    budget = objects["PodDisruptionBudget", module]["spec"]
    assert budget["maxUnavailable"] == 1
    for selector in (
        spec["selector"]["matchLabels"],
        budget["selector"]["matchLabels"],
        objects["Service", module]["spec"]["selector"],
        *(one["labelSelector"]["matchLabels"] for one in spread),
    ):
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/component"] == module


# --- network policies ---


def selects(selector, labels):
    """Whether a pod selector selects a pod."""
    by_expression = all(
        {"In": labels.get(one["key"]) in one["values"]}[one["operator"]] for one in selector.get("matchExpressions", ())
    )
    return selector.get("matchLabels", {}).items() <= labels.items() and by_expression


def allowed(objects, direction):
    """Returns pod, peer and port of all traffic that the network policies allow."""
    side = {"ingress": "from", "egress": "to"}[direction]
    for (kind, _), policy in objects.items():
        for rule in policy["spec"].get(direction, ()) if kind == "NetworkPolicy" else ():
            for name, template in pods(objects):
                if selects(policy["spec"]["podSelector"], template["metadata"]["labels"]):
                    for peer in rule[side]:
                        labels = peer.get("namespaceSelector", {}).get("matchLabels", {})
                        other = next(iter(labels), "") if "ipBlock" not in peer else peer["ipBlock"]["cidr"]
                        for port in rule["ports"]:
                            yield name, other, port["port"]


@every_overlay
def test_every_way_that_is_not_named_is_closed(built, overlay):
    objects = built(overlay)
    nobody = objects["NetworkPolicy", "nobody"]["spec"]
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    outside = overlay == "production"
    broker = "192.0.2.0/25" if outside else "orderflow-broker"
    database = "192.0.2.128/25" if outside else "orderflow-database"
    assert set(allowed(objects, "ingress")) == {
        ("gateway", "orderflow-ingress", 7000),
        *((module, f"orderflow-{watcher}", 7000) for module in MODULES for watcher in ("monitoring", "autoscaler")),
    }
    everybody = (*MODULES, "doctor")
    assert set(allowed(objects, "egress")) == {
        *((name, "kubernetes.io/metadata.name", 53) for name in everybody),
        *((module, broker, 5671) for module in MODULES),
        *((name, database, 27017) for name in everybody),
        ("webhooks", "0.0.0.0/0", 443),
        ("webhooks", "2000::/3", 443),
    }


@every_overlay
def test_webhooks_reach_the_internet_and_nothing_that_is_private(built, overlay):
    [rule] = built(overlay)["NetworkPolicy", "webhooks-to-receivers"]["spec"]["egress"]
    blocks = [peer["ipBlock"] for peer in rule["to"]]

    def reachable(address):
        return any(
            address in ip_network(block["cidr"]) and not any(address in ip_network(one) for one in block["except"])
            for block in blocks
            if ip_network(block["cidr"]).version == address.version
        )

    public = ("1.1.1.1", "100.128.0.1", "172.32.0.1", "223.255.255.1", "2606:4700::1111", "2a00:1450::1")
    assert all(reachable(ip_address(text)) for text in public)
    private = (
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "198.18.0.1",
        "168.63.129.16",
    )
    private += (
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::ffff:10.0.0.1",
        "fd00::1",
        "fe80::1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    )
    assert not any(reachable(ip_address(text)) for text in private)
    assert Settings().webhook_port_numbers == {port["port"] for port in rule["ports"]}
    # No policy may be wider than what the module itself allows.
    assert all(map(AddressRules().allow, public))
    assert not any(map(AddressRules().allow, private))


def test_the_readme_names_every_label_that_opens_a_way(built):
    labels = {other for _, other, _ in [*allowed(built("small"), "ingress"), *allowed(built("small"), "egress")]}
    assert {label for label in labels if label.startswith("orderflow-")} == set(
        re.findall(r"orderflow-\w+(?==allowed)", README)
    )


# --- replicas ---


def scaled(objects):
    """Returns minimum and maximum of each deployment's autoscaler."""
    for (kind, _), one in objects.items():
        spec = one.get("spec", {})
        if kind == "HorizontalPodAutoscaler":
            yield spec["scaleTargetRef"]["name"], spec["minReplicas"], spec["maxReplicas"]
        elif kind == "ScaledObject":
            yield spec["scaleTargetRef"]["name"], spec["minReplicaCount"], spec["maxReplicaCount"]


@every_overlay
def test_every_deployment_has_one_autoscaler_that_leaves_two_at_the_least(built, overlay):
    found = list(scaled(built(overlay)))
    assert sorted(name for name, _, _ in found) == sorted(MODULES)
    assert all(2 <= least < most for _, least, most in found)


@pytest.mark.parametrize("module", WORKERS)
def test_the_backlog_that_scales_a_module_is_the_one_it_tells(built, module, client):
    objects = built("production")
    spec = objects["ScaledObject", module]["spec"]
    triggers = {one["type"]: one["metadata"] for one in spec["triggers"]}
    assert set(triggers) == {"cpu", "metrics-api"}
    service = objects["Service", module]
    port = service["spec"]["ports"][0]["port"]
    assert triggers["metrics-api"]["url"] == f"http://{module}.{service['metadata']['namespace']}.svc:{port}/metrics"
    # As KEDA does: a name with labels, searched in a scrape.
    name, label, value = re.fullmatch(r'(\w+)\{(\w+)="(\w+)"\}', triggers["metrics-api"]["valueLocation"]).groups()
    families = {one.name: one for one in text_string_to_metric_families(client.get("/metrics").text)}
    [sample] = [one for one in families[name].samples if one.labels == {label: value}]
    assert (sample.labels["module"], sample.value) == (module, 0)
    # A count up to BACKLOG_LIMIT must be able to request the maximum number of replicas.
    assert Settings().backlog_limit / int(triggers["metrics-api"]["targetValue"]) >= spec["maxReplicaCount"]


def test_prometheus_watches_every_module_under_the_name_that_the_alerts_know(built):
    objects = built("production")
    watched = set()
    for (kind, _), one in objects.items():
        if kind == "PodMonitor":
            [endpoint] = one["spec"]["podMetricsEndpoints"]
            assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
            for name, template in pods(objects):
                if selects(one["spec"]["selector"], template["metadata"]["labels"]):
                    watched.add(name)
                    assert template["metadata"]["labels"][one["spec"]["jobLabel"]] == "orderflow"
                    assert ("authorization" in endpoint) == (name == "gateway")
    assert watched == set(MODULES)
    assert 'job="orderflow"' in (ROOT / "deploy/monitoring/alerts.yml").read_text()
