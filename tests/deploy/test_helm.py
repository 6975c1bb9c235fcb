"""The Helm chart: rendered by Helm itself, the same as the Kustomize folders, valid, and fitting the application."""

import json
import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from app import __version__
from app.config import Settings, env_name
from tests.deploy.rendered import (
    ROOT,
    by_name,
    environment,
    helm_path,
    image_environment,
    is_valid,
    kustomized,
    pods,
    program,
)

CHART = ROOT / "deploy/helm/orderflow"
KUBERNETES = ROOT / "deploy/kubernetes"
HELM = program("helm")
MODULES = ("gateway", "orders", "payments", "webhooks")
OLDEST, NEWEST = "1.30", "1.37"
SMALL = {
    "image": {"repository": "registry.example/orderflow", "tag": "1"},
    "autoscaling": {"enabled": True},
    "resources": {"requests": {"cpu": "200m", "memory": "256Mi"}},
}
URIS = {"mongodbUri": "mongodb://u:a-long-one@db.example/", "busUrl": "amqps://u:a-long-one@broker.example/"}
STRIPE = {"stripeSecretKey": "sk_test_a", "stripeWebhookSecret": "whsec_a"}
SECRETS = {
    "gateway": {**URIS, "jwks": "{}"}, "orders": URIS, "payments": {**URIS, **STRIPE}, "webhooks": URIS,
    "doctor": {"mongodbUri": URIS["mongodbUri"], **STRIPE},
}  # fmt: skip
VARIANTS = {
    "apart": {},
    "one process": {"oneProcess": True},
    "no webhooks": {"webhooks": False},
    "one process without webhooks": {"oneProcess": True, "webhooks": False},
    "stripe": {"provider": "stripe"},
    "one process with stripe": {"oneProcess": True, "provider": "stripe"},
    "small": SMALL,
    "open": {"ingress": {"enabled": True, "className": "nginx"}, "networkPolicies": {"enabled": False}},
}
every_variant = pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
pytestmark = pytest.mark.extended


@pytest.fixture(autouse=True)
def helm_installed():
    helm_path()


@pytest.fixture
def helm(tmp_path):
    """Runs Helm with values given as JSON; returns the finished process."""

    def run(*words, values):
        (tmp_path / "values.json").write_text(json.dumps(values))
        homes = {f"HELM_{name}_HOME": str(tmp_path / name) for name in ("CACHE", "CONFIG", "DATA")}
        command = [HELM, *words, CHART, "--values", tmp_path / "values.json"]
        return subprocess.run(command, env=homes, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def rendered(helm):
    """Renders the chart with values; returns its objects by kind and name."""

    def render(values):
        done = helm("template", "orderflow", "--namespace", "orderflow", values=values)
        assert (done.returncode, done.stderr) == (0, "")
        return by_name(done.stdout)

    return render


def comparable(objects):
    """Returns what has to be the same: everything but what only one of the two tools adds."""
    # Kustomize has a hash of a config map in its name, Helm in an annotation of the pods.
    text = re.sub(r'"(every-module|gateway)-[0-9a-z]{10}"', r'"\1"', json.dumps(list(objects.values())))
    kept = [one for one in json.loads(text) if one["kind"] not in ("Namespace", "Secret")]
    for one in kept:
        # Kustomize labels what is in the base only.
        component = one["metadata"].pop("labels", {}).get("app.kubernetes.io/component")
        one["metadata"]["component"] = component
        for template in templates(one):
            assert template["metadata"].pop("annotations", {}).keys() <= {"checksum/config", "checksum/secrets"}
            template["spec"]["volumes"].sort(key=lambda volume: volume["name"])
    return {(one["kind"], one["metadata"]["name"]): one for one in kept}


def templates(one):
    """Yields the template of an object's pods, if it has any."""
    if one["kind"] == "Deployment":
        yield one["spec"]["template"]
    elif one["kind"] == "CronJob":
        yield one["spec"]["jobTemplate"]["spec"]["template"]


# --- the same as what Kustomize builds ---


@every_variant
def test_a_linter_finds_nothing_in_the_chart(helm, values):
    done = helm("lint", "--strict", values=values)
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


def test_with_nothing_set_the_chart_makes_the_objects_of_the_base(rendered):
    chart, base = rendered({"image": {"tag": "1"}}), kustomized(KUBERNETES / "base")
    for _, spec in pods(base):
        spec["containers"][0]["image"] = "orderflow:1"
    assert comparable(chart) == comparable(base)


def test_with_autoscaling_the_chart_makes_the_objects_of_the_small_overlay(rendered):
    assert comparable(rendered(SMALL)) == comparable(kustomized(KUBERNETES / "overlays/small"))


def test_with_an_ingress_and_networks_the_chart_makes_those_of_the_production_overlay(rendered):
    made = rendered(
        {
            "ingress": {"enabled": True},
            "networkPolicies": {
                "broker": [{"ipBlock": {"cidr": "192.0.2.0/25"}}],
                "database": [{"ipBlock": {"cidr": "192.0.2.128/25"}}],
            },
        }
    )

    def of_network(objects):
        return {key: one for key, one in comparable(objects).items() if key[0] in ("Ingress", "NetworkPolicy")}

    assert ("Ingress", "gateway") in made
    assert of_network(made) == of_network(kustomized(KUBERNETES / "overlays/production"))


# --- each value ---


@every_variant
def test_every_object_is_valid_for_all_supported_versions_of_kubernetes(rendered, values):
    objects = rendered({**values, "secrets": SECRETS})
    assert all(is_valid(one, version) for one in objects.values() for version in (OLDEST, NEWEST))
    assert {one["metadata"]["namespace"] for one in objects.values()} == {"orderflow"}
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={OLDEST}.0-0"


@every_variant
def test_a_pod_is_given_what_the_application_starts_with(rendered, values, tmp_path):
    objects = rendered({**values, "secrets": SECRETS})
    known = {env_name(field.name) for field in fields(Settings)}
    known |= {f"{name}_FILE" for name in known} | {"WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"}
    for pod, spec in pods(objects):
        environ = image_environment() | environment(objects, pod)
        assert environ.keys() <= known
        [folder] = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
        secret = objects["Secret", folder]["stringData"]
        wanted = {Path(value).name for key, value in environ.items() if key.endswith("_FILE")}
        assert wanted == secret.keys(), f"{pod} is given other secrets than it reads"
        for key in (key for key in environ if key.endswith("_FILE")):
            file = tmp_path / pod / Path(environ[key]).name
            file.parent.mkdir(exist_ok=True)
            file.write_text(secret[file.name])
            environ[key] = str(file)
        settings = Settings.read(environ)
        assert settings.webhooks == values.get("webhooks", True)
        assert settings.payment_provider == values.get("provider", "simulated")
        assert settings.identity == (pod == "gateway")
        if pod != "doctor":
            assert settings.modules == (",".join(modules_of(values)) if values.get("oneProcess") else pod)
            assert bool(settings.bus_url) != bool(values.get("oneProcess"))


def modules_of(values):
    return [module for module in MODULES if module != "webhooks" or values.get("webhooks", True)]


@every_variant
def test_there_is_a_pod_for_every_module_and_traffic_for_every_pod(rendered, values):
    objects = rendered(values)
    deployments = ["gateway"] if values.get("oneProcess") else modules_of(values)
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        assert [name for each, name in objects if each == kind] == deployments
    policies = {name: one["spec"] for (kind, name), one in objects.items() if kind == "NetworkPolicy"}
    if policies:
        selectors = {name: json.dumps(spec["podSelector"]) for name, spec in policies.items()}
        assert all(f'"{pod}"' in selectors["all-to-database"] for pod in (*deployments, "doctor"))
        assert ("modules-to-broker" in policies) != bool(values.get("oneProcess"))
        for policy, module in (("webhooks-to-receivers", "webhooks"), ("payments-to-provider", "payments")):
            pod = "gateway" if values.get("oneProcess") else module
            assert selectors.get(policy, f'"{pod}"').count(f'"{pod}"') == 1
        assert ("webhooks-to-receivers" in policies) == values.get("webhooks", True)
        assert ("payments-to-provider" in policies) == (values.get("provider") == "stripe")
    assert bool(policies) == values.get("networkPolicies", {}).get("enabled", True)


def test_without_webhooks_nothing_of_them_is_left_and_all_else_stays(rendered):
    without = comparable(rendered({"webhooks": False}))
    every_module = without["ConfigMap", "every-module"]["data"]
    assert every_module.pop("WEBHOOKS") == "0"
    assert every_module.pop("WEBHOOKS_DATABASE")
    assert "webhooks" not in json.dumps(list(without.values()))
    assert without.keys() == {
        key for key in comparable(rendered({})) if key[1] not in ("webhooks", "webhooks-to-receivers")
    }


def test_an_existing_secret_is_mounted_and_none_is_made(rendered):
    objects = rendered({"secrets": {"orders": {"existing": "orders-of-mine"}, "doctor": {"existing": "readers"}}})
    mounted = {pod: spec["volumes"][0]["secret"]["secretName"] for pod, spec in pods(objects)}
    assert mounted == {
        "gateway": "gateway", "orders": "orders-of-mine", "payments": "payments", "webhooks": "webhooks", "doctor": "readers",
    }  # fmt: skip
    assert not any(kind == "Secret" for kind, _ in objects)


def test_replicas_image_and_pull_secrets_are_those_of_the_values(rendered):
    digest = f"sha256:{64 * 'a'}"
    image = {"repository": "registry.example/o", "digest": digest, "pullPolicy": "Always", "pullSecrets": ["registry"]}
    objects = rendered({"replicas": {"gateway": 5, "payments": 3}, "image": image})
    counts = {name: one["spec"]["replicas"] for (kind, name), one in objects.items() if kind == "Deployment"}
    assert counts == {"gateway": 5, "orders": 2, "payments": 3, "webhooks": 2}
    for _, spec in pods(objects):
        [container] = spec["containers"]
        assert (container["image"], container["imagePullPolicy"]) == (f"registry.example/o@{digest}", "Always")
        assert spec["imagePullSecrets"] == [{"name": "registry"}]


def test_a_change_of_settings_or_of_a_secret_rolls_over_every_pod_that_has_it(rendered):
    def marks(values):
        return {
            name: one["spec"]["template"]["metadata"]["annotations"]
            for (kind, name), one in rendered(values).items()
            if kind == "Deployment"
        }

    before = marks({"secrets": SECRETS})
    config = marks({"secrets": SECRETS, "config": {"everyModule": {"LOG_LEVEL": "warning"}}})
    secrets = marks({"secrets": {**SECRETS, "orders": {**URIS, "busUrl": "amqps://u:another@broker.example/"}}})
    for pod, mark in before.items():
        assert config[pod]["checksum/config"] != mark["checksum/config"]
        assert secrets[pod]["checksum/secrets"] != mark["checksum/secrets"]
    assert marks({"secrets": SECRETS}) == before


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replica": {"gateway": 3}}, "replica"),
        ({"replicas": {"gateway": 0}}, "gateway"),
        ({"provider": "paypal"}, "provider"),
        ({"image": {"digest": "sha256:abc"}}, "digest"),
        ({"config": {"everyModule": {"MONGODB_URI": "mongodb://"}}}, "MONGODB_URI"),
        ({"config": {"everyModule": {"WEBHOOKS": "0"}}}, "WEBHOOKS"),
        ({"networkPolicies": {"database": []}}, "database"),
        ({"secrets": {"orders": {"existing": ""}}}, "secrets.orders: existing or mongodbUri"),
        ({"secrets": {"orders": {"mongodbUri": "mongodb://"}}}, "secrets.orders.busUrl"),
        ({"secrets": {"gateway": URIS}}, "secrets.gateway.jwks"),
        ({"provider": "stripe", "secrets": {"payments": URIS}}, "secrets.payments.stripeSecretKey"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(helm, values, complaint):
    done = helm("template", "orderflow", values=values)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_the_schema_knows_every_value_and_every_value_is_used(rendered):
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"].keys() - {"global"} == values.keys()
    templates = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    for name, value in values.items():
        assert f".Values.{name}" in templates
        names = value if isinstance(value, dict) and name not in ("config", "secrets", "replicas", "resources") else ()
        policies = r"(?:\.Values\.networkPolicies|\$policies)"
        prefix = policies if name == "networkPolicies" else re.escape(f".Values.{name}")
        assert all(re.search(rf"{prefix}\.{each}\b", templates) for each in names), name


def test_chart_and_application_have_one_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_command_of_the_docs_renders(tmp_path):
    [block] = re.findall(r"```\n(kubectl create namespace.*?)```", (ROOT / "docs/deployment.md").read_text(), re.DOTALL)
    [command] = [line for line in block.replace("\\\n", "").splitlines() if line.startswith("helm ")]
    _, upgrade, install, *words = shlex.split(command)
    assert (upgrade, install) == ("upgrade", "--install")
    done = subprocess.run([HELM, "template", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    secrets = {spec["volumes"][0]["secret"]["secretName"] for _, spec in pods(by_name(done.stdout))}
    assert all(f"create secret generic {secret} " in block for secret in secrets)
