"""The CloudFormation templates: a linter finds nothing, moto makes the stacks, and what is in them fits the application.

moto leaves out the types in UNKNOWN_TO_MOTO and, of what it makes, much: Fargate and the network of tasks, how deployments
go, attributes of load balancers, ways out of security groups. Those are read in the template itself, and cfn-lint has
held all of it against AWS's schemas. Nothing here has been at AWS.
"""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import warnings
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.config import Settings, env_name
from app.gateway.http.long_poll import MAX_WAIT_SECONDS

ROOT = Path(__file__).parents[2]
AWS = ROOT / "deploy/aws"
TEMPLATES = [AWS / "network.yaml", AWS / "orderflow.yaml", AWS / "webhooks.yaml"]
README = (AWS / "README.md").read_text()
MODULES = {"gateway": "Gateway", "orders": "Orders", "payments": "Payments", "webhooks": "Webhooks"}
SECRET = {"MONGODB_URI", "BUS_URL", "AUTH_JWT_KEY", "AUTH_JWT_JWKS", "CURSOR_KEY"}
NOT_SETTINGS = {"WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "TMPDIR"}
UNKNOWN_TO_MOTO = {
    "AWS::AmazonMQ::Broker",
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::CloudWatch::Alarm",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::SecretsManager::Secret",
}
ANYWHERE = "0.0.0.0/0"
WORKERS = ("orders", "payments", "webhooks")
every_module = pytest.mark.parametrize("module", MODULES)
pytestmark = pytest.mark.extended


# cfn-lint, moto and boto3 take seconds to import: only the worker that uses them does.
@cache
def read(template):
    return import_module("cfnlint.decode.cfn_yaml").load(str(template))


def client(service):
    return import_module("boto3").client(service)


def stack():
    return read(AWS / "orderflow.yaml")


def stacks():
    """The stacks of the modules: that of webhooks is one of its own."""
    return [stack(), read(AWS / "webhooks.yaml")]


def of_both(part):
    """Parameters, conditions or resources of both stacks."""
    return {name: one for template in stacks() for name, one in template[part].items()}


def resources():
    assert not stacks()[0]["Resources"].keys() & stacks()[1]["Resources"].keys()
    return of_both("Resources")


def of_type(kind):
    return {name: one["Properties"] for name, one in resources().items() if one["Type"] == kind}


def properties(name):
    return resources()[name]["Properties"]


def containers(module):
    return {one["Name"]: one for one in properties(f"{MODULES[module]}Task")["ContainerDefinitions"]}


# --- the templates ---


def test_the_linter_finds_nothing_not_even_to_mention():
    tool = shutil.which("cfn-lint", path=sysconfig.get_path("scripts"))
    linted = subprocess.run(
        [tool, "--include-checks", "I", "--", *map(str, TEMPLATES)], capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.name)
def test_a_template_is_small_enough_to_be_sent_as_it_is_and_explains_what_it_asks(template):
    assert template.stat().st_size <= 51_200
    assert all(one["Description"].endswith(".") for one in read(template)["Parameters"].values())


@pytest.mark.parametrize("template", TEMPLATES[1:], ids=lambda file: file.name)
def test_every_parameter_is_used_shown_in_a_group_and_every_one_the_readme_names_is_there(template):
    text, parameters = template.read_text(), read(template)["Parameters"]
    names = set(parameters)
    groups = read(template)["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(names)
    used = set(re.findall(r"!Ref (\w+)", text)) | set(re.findall(r"\$\{(\w+)\}", text))
    assert names <= used
    required = {name for name, one in parameters.items() if "Default" not in one}
    given = set(re.findall(r"^\s+(\w+)=", README, re.MULTILINE))
    assert required <= given <= of_both("Parameters").keys() | set(read(AWS / "network.yaml")["Parameters"])


def test_what_both_stacks_are_asked_means_the_same():
    first, second = (one["Parameters"] for one in stacks())
    shared = (first.keys() & second.keys()) - {"TargetBacklog"}
    assert "DatabaseCidr" in shared
    assert {name: first[name] for name in shared} == {name: second[name] for name in shared}


# --- the stacks, made by moto ---


class Made:
    """The resources that moto made of both templates."""

    left_out: set[str]

    def __init__(self) -> None:
        self.cloudformation = client("cloudformation")
        network = self._make("network", TEMPLATES[0], {})
        secrets = client("secretsmanager")
        self.secrets = {
            name: secrets.create_secret(Name=name, SecretString="x")["ARN"]
            for name in (
                "TokenKeySecret",
                "WebhooksBusSecret",
                *(f"{title}DatabaseSecret" for title in MODULES.values()),
            )
        }
        certificate = client("acm").request_certificate(DomainName="orders.example")["CertificateArn"]
        shared = ("VpcId", "PublicSubnetCidrs", "PublicSubnets", "PrivateSubnets")
        self.network = network
        self.given = {**self.secrets, **{name: network[name] for name in shared}}
        self.given |= {"Version": "1", "Certificate": certificate, "TokenIssuer": "https://issuer.example"}
        self.given["DatabaseCidr"] = "10.50.0.0/24"
        self.outputs = self._make("orderflow", TEMPLATES[1], self._of(TEMPLATES[1]))
        self._make("orderflow-webhooks", TEMPLATES[2], self._of(TEMPLATES[2]))

    def _of(self, template):
        """What is given of a template's parameters."""
        return {name: value for name, value in self.given.items() if name in read(template)["Parameters"]}

    def _make(self, name, template, given):
        parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
        self.cloudformation.create_stack(
            StackName=name, TemplateBody=template.read_text(), Parameters=parameters, Capabilities=["CAPABILITY_IAM"]
        )
        [stack] = self.cloudformation.describe_stacks(StackName=name)["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}

    def task(self, module):
        ecs = client("ecs")
        return ecs.describe_task_definition(taskDefinition=f"orderflow-{module}")["taskDefinition"]


@pytest.fixture(scope="module")
def region():
    """No credentials of the user who runs the tests reach AWS."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        with import_module("moto").mock_aws():
            yield


@pytest.fixture(scope="module")
def made(region):
    with warnings.catch_warnings(record=True) as warnings_shown:
        warnings.simplefilter("always")
        stacks = Made()
    stacks.left_out = {
        kind for one in warnings_shown for kind in re.findall(r"Tried to parse (\S+) but", str(one.message))
    }
    return stacks


def test_moto_makes_all_but_what_it_says_it_cannot(made):
    assert made.left_out == UNKNOWN_TO_MOTO


def test_private_subnets_go_out_through_their_own_zone_and_public_ones_straight(made):
    ec2 = client("ec2")
    zones = {one["SubnetId"]: one["AvailabilityZone"] for one in ec2.describe_subnets()["Subnets"]}
    public, private = (made.network[name].split(",") for name in ("PublicSubnets", "PrivateSubnets"))
    assert [zones[subnet] for subnet in public] == [zones[subnet] for subnet in private]
    assert len({zones[subnet] for subnet in private}) == 3
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [made.network["VpcId"]]}])["RouteTables"]
    ways = [route for table in tables for route in table["Routes"] if route.get("DestinationCidrBlock") == ANYWHERE]
    assert sorted("nat" if "NatGatewayId" in way else way["GatewayId"][:3] for way in ways) == ["igw", *["nat"] * 3]
    # moto does not keep the route table of a subnet.
    network = read(TEMPLATES[0])["Resources"]
    for zone in "ABC":
        assert network[f"PrivateSubnetRoutes{zone}"]["Properties"] == {
            "RouteTableId": {"Ref": f"PrivateRoutes{zone}"}, "SubnetId": {"Ref": f"PrivateSubnet{zone}"},
        }  # fmt: skip
        assert network[f"PublicRoutes{zone}"]["Properties"] == {
            "RouteTableId": {"Ref": "PublicRoutes"}, "SubnetId": {"Ref": f"PublicSubnet{zone}"},
        }  # fmt: skip
        assert network[f"Nat{zone}"]["Properties"]["SubnetId"] == {"Ref": f"PublicSubnet{zone}"}


def test_only_the_load_balancer_is_open_and_each_lets_in_only_whom_it_must(made):
    found = client("ec2").describe_security_groups()["SecurityGroups"]
    groups = {one["GroupId"]: one for one in found if one["GroupName"].startswith("orderflow-")}
    names = {group: re.search(r"-(\w+Group)-", one["GroupName"])[1] for group, one in groups.items()}
    ways_in = {
        (names[group], rule["FromPort"], rule["ToPort"], who)
        for group, one in groups.items()
        for rule in one["IpPermissions"]
        for who in [
            *(names[pair["GroupId"]] for pair in rule["UserIdGroupPairs"]),
            *(ranged["CidrIp"] for ranged in rule["IpRanges"]),
        ]
    }
    assert ways_in == {
        ("LoadBalancerGroup", 443, 443, ANYWHERE),
        ("LoadBalancerGroup", 80, 80, ANYWHERE),
        ("GatewayGroup", 7000, 7000, "LoadBalancerGroup"),
        *(("BrokerGroup", 5671, 5671, f"{title}Group") for title in MODULES.values()),
    }


def test_plain_http_is_sent_to_https_and_https_to_the_gateway(made):
    elb = client("elbv2")
    [balancer] = elb.describe_load_balancers()["LoadBalancers"]
    assert {zone["SubnetId"] for zone in balancer["AvailabilityZones"]} == set(made.network["PublicSubnets"].split(","))
    listeners = {
        one["Port"]: one for one in elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
    }
    assert set(listeners) == {80, 443}
    assert listeners[80]["DefaultActions"][0]["RedirectConfig"]["Protocol"] == "HTTPS"
    assert listeners[443]["Certificates"] == [{"CertificateArn": made.given["Certificate"]}]
    assert "TLS13" in listeners[443]["SslPolicy"]
    [group] = elb.describe_target_groups()["TargetGroups"]
    assert listeners[443]["DefaultActions"][0]["TargetGroupArn"] == group["TargetGroupArn"]
    assert (group["TargetType"], group["Port"], group["HealthCheckPath"]) == ("ip", 7000, "/readyz")


def test_logs_are_kept_for_a_time(made):
    groups = client("logs").describe_log_groups()["logGroups"]
    assert {one["logGroupName"]: one["retentionInDays"] for one in groups} == {
        **{f"/orderflow/{module}": 30 for module in MODULES},
        "/orderflow/metrics": 1,
    }


@every_module
def test_a_task_may_read_its_own_secrets_and_write_its_own_log_and_nothing_else(made, module):
    iam = client("iam")
    [role] = [one["RoleName"] for one in iam.list_roles()["Roles"] if f"-{MODULES[module]}Start-" in one["RoleName"]]
    text = iam.get_role_policy(RoleName=role, PolicyName="start")["PolicyDocument"]
    statements = (text if isinstance(text, dict) else yaml.safe_load(text.replace("None", "null")))["Statement"]
    may = {str(one["Action"]): one["Resource"] for one in statements}
    own = [made.secrets[f"{MODULES[module]}DatabaseSecret"]]
    own += [made.secrets["TokenKeySecret"]] if module == "gateway" else []
    # The address of the broker is of a type that moto does not know.
    bus = made.secrets["WebhooksBusSecret"] if module == "webhooks" else None
    assert may.pop("secretsmanager:GetSecretValue") == [*own, bus]
    assert may == {
        "['logs:CreateLogStream', 'logs:PutLogEvents']": f"arn:aws:logs:eu-central-1:123456789012:log-group:/orderflow/{module}"
    }


def test_no_right_is_for_everything_but_to_sign_in_at_the_registry():
    rights = [
        (statement["Action"], statement["Resource"])
        for kind in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy")
        for one in of_type(kind).values()
        for document in [one.get("PolicyDocument"), *(policy["PolicyDocument"] for policy in one.get("Policies", ()))]
        if document
        for statement in document["Statement"]
    ]
    assert [action for action, resource in rights if resource == "*"] == ["ecr:GetAuthorizationToken"] * 2
    assert "*" not in str([action for action, _ in rights])
    for role in of_type("AWS::IAM::Role").values():
        [trusted] = role["AssumeRolePolicyDocument"]["Statement"]
        assert trusted["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}


# --- the contents, compared with the application ---


@every_module
def test_every_name_in_the_environment_is_a_setting(module):
    container = containers(module)[module]
    settings = {env_name(field.name) for field in fields(Settings)}
    named = {one["Name"] for one in container["Environment"]} | {
        name
        for one in container["Secrets"]
        for name in ([one["Name"]] if isinstance(one["Name"], str) else ["AUTH_JWT_KEY", "AUTH_JWT_JWKS"])
    }
    assert named <= settings | NOT_SETTINGS


def environment_of(made, module):
    """Returns the environment of a task, with made-up secrets."""
    found = next(one for one in made.task(module)["containerDefinitions"] if one["name"] == module)
    secrets = {
        "MONGODB_URI": f"mongodb+srv://{module}:a-long-one@cluster.example/?authSource=admin",
        "BUS_URL": "amqps://orderflow:another-long-one@b-1.mq.eu-central-1.amazonaws.com:5671/",
        "AUTH_JWT_JWKS": '{"keys": []}',
    }
    image = dict(re.findall(r"(PORT|BIND)=(\S+)", (ROOT / "Dockerfile").read_text()))
    environ = image | {one["name"]: one["value"] for one in found["environment"]}
    return environ | {one["name"]: secrets[one["name"]] for one in found["secrets"]}


@every_module
def test_a_task_is_given_what_the_application_starts_with(made, module):
    settings = Settings.read(environment_of(made, module))
    assert settings.modules == module
    assert settings.identity == (module == "gateway")
    assert not settings.metrics_public
    assert settings.database_of(module) == f"orderflow_{module}"
    assert settings.database_of("gateway") == "orderflow_gateway"
    if module == "gateway":
        # The subnets with only the load balancer, not the network of all tasks.
        assert settings.forwarded_allow_ips == "10.40.0.0/20,10.40.16.0/20,10.40.32.0/20"


HAS_ONE_USER = {
    "gateway": "GatewayHasOneUser",
    "orders": "OrdersHaveOneUser",
    "payments": "PaymentsHaveOneUser",
}


@every_module
def test_a_module_can_have_a_user_of_its_own_at_the_broker_and_then_reads_no_other(module):
    own = {"Ref": f"{MODULES[module]}BusSecret"}
    if module in HAS_ONE_USER:
        own = {"Fn::If": [HAS_ONE_USER[module], {"Ref": "BusUrl"}, own]}
        condition = {"Fn::Equals": [{"Ref": f"{MODULES[module]}BusSecret"}, ""]}
        assert stack()["Conditions"][HAS_ONE_USER[module]] == condition
    assert {"Name": "BUS_URL", "ValueFrom": own} in containers(module)[module]["Secrets"]
    rights = [
        statement["Resource"]
        for policy in properties(f"{MODULES[module]}Start")["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Action"] == "secretsmanager:GetSecretValue"
    ]
    assert [one for one in rights[0] if "Bus" in str(one)] == [own]


def test_where_the_database_is_has_to_be_said():
    assert "Default" not in stack()["Parameters"]["DatabaseCidr"]
    for module in MODULES.values():
        assert {"Ref": "DatabaseCidr"} in [
            rule["CidrIp"] for rule in properties(f"{module}Group")["SecurityGroupEgress"] if "CidrIp" in rule
        ]


@every_module
def test_no_secret_lies_in_the_open(module):
    for container in containers(module).values():
        assert not {one["Name"] for one in container.get("Environment", ())} & SECRET
    assert not any("NoEcho" in one for one in of_both("Parameters").values())
    assert "Secret" in properties(f"{MODULES[module]}Task")["ContainerDefinitions"][0]["Secrets"][0]["ValueFrom"]["Ref"]


@every_module
def test_a_task_has_the_least_rights_and_the_image_of_all_others(module):
    task = properties(f"{MODULES[module]}Task")
    assert task["RequiresCompatibilities"] == ["FARGATE"]
    assert task["Cpu"], task["Memory"] == ("1024", "2048")
    assert ("TaskRoleArn" in task) == ("collector" in containers(module)) == (module != "gateway")
    for container in task["ContainerDefinitions"]:
        assert container["ReadonlyRootFilesystem"] is True
        assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
    own = containers(module)[module]
    assert own["User"] == "10001:10001"
    assert f"USER {own['User']}\n" in (ROOT / "Dockerfile").read_text()
    assert own["Image"] == containers("gateway")["gateway"]["Image"]
    assert own["PortMappings"][0]["ContainerPort"] == 7000
    assert own.get("Command") == (None if module == "gateway" else ["flask", "--app", "app.main", "worker"])


@every_module
def test_a_task_runs_in_private_and_rolls_over_without_a_gap(module):
    service = properties(MODULES[module])
    assert service["NetworkConfiguration"]["AwsvpcConfiguration"] == {
        "AssignPublicIp": "DISABLED",
        "Subnets": {"Ref": "PrivateSubnets"},
        "SecurityGroups": [{"Ref": f"{MODULES[module]}Group"}],
    }
    deployment = service["DeploymentConfiguration"]
    assert deployment["MinimumHealthyPercent"] == 100
    assert deployment["MaximumPercent"] > 100
    assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    if module != "gateway":
        assert deployment["Alarms"]["AlarmNames"] == [{"Ref": f"{MODULES[module]}Behind"}]


@every_module
def test_ways_out_are_named_and_few(module):
    ways = properties(f"{MODULES[module]}Group")["SecurityGroupEgress"]
    ports = {(way["FromPort"] if isinstance(way["FromPort"], int) else way["FromPort"]["Ref"]) for way in ways}
    assert ports == {443, 5671, "DatabaseFirstPort"}
    [to_broker] = [way for way in ways if way["FromPort"] == 5671]
    shared = {"Fn::ImportValue": {"Fn::Sub": "${Orderflow}-BrokerGroup"}}
    assert to_broker["DestinationSecurityGroupId"] == (shared if module == "webhooks" else {"Ref": "BrokerGroup"})


def test_the_broker_is_private_and_speaks_tls_only():
    broker = properties("Broker")
    assert broker["PubliclyAccessible"] is False
    assert broker["SecurityGroups"] == [{"Ref": "BrokerGroup"}]
    text, names = properties("BusUrl")["SecretString"]["Fn::Sub"]
    assert text.startswith("amqps://{{resolve:secretsmanager:${BrokerUser}:SecretString:username}}:{{resolve:")
    assert names["Host"]["Fn::Select"][1]["Fn::Split"][1]["Fn::Select"][1] == {
        "Fn::GetAtt": ["Broker", "AmqpEndpoints"]
    }


# --- times that must agree ---


def attributes(name, of):
    return {one["Key"]: one["Value"] for one in properties(name)[of]}


def test_waiting_clients_are_not_cut_off():
    idle = int(attributes("LoadBalancer", "LoadBalancerAttributes")["idle_timeout.timeout_seconds"])
    delay = int(attributes("GatewayTargets", "TargetGroupAttributes")["deregistration_delay.timeout_seconds"])
    assert idle > MAX_WAIT_SECONDS
    assert delay > MAX_WAIT_SECONDS


@every_module
def test_a_task_has_time_to_end_in_order(gunicorn, module):
    assert gunicorn()["graceful_timeout"] < containers(module)[module]["StopTimeout"] <= 120


def test_the_load_balancer_finds_open_what_it_kept_open(gunicorn, made):
    idle = int(attributes("LoadBalancer", "LoadBalancerAttributes")["idle_timeout.timeout_seconds"])
    given = environment_of(made, "gateway")
    assert gunicorn(GUNICORN_CMD_ARGS=given["GUNICORN_CMD_ARGS"])["keepalive"] > idle


# --- monitoring ---


@pytest.fixture
def scraped(client, eventually):
    """The modules of each sample of a scrape, by name."""

    def scrape():
        found = {}
        for family in text_string_to_metric_families(client.get("/metrics").text):
            found[family.name] = {sample.labels.get("module") for sample in family.samples}
        # A backlog that a busy machine does not count in time is left out.
        return found if len(found.get("orderflow_backlog_due", ())) == len(WORKERS) else None

    return eventually(scrape)


NAMESPACES = ({"Ref": "AWS::StackName"}, {"Ref": "Orderflow"})


def watched():
    """Returns name and module of each application metric that an alarm or a policy uses."""
    for alarm in of_type("AWS::CloudWatch::Alarm").values():
        if alarm.get("Namespace") in NAMESPACES:
            yield alarm["MetricName"], alarm["Dimensions"][0]["Value"]
    for policy in of_type("AWS::ApplicationAutoScaling::ScalingPolicy").values():
        given = policy["TargetTrackingScalingPolicyConfiguration"].get("CustomizedMetricSpecification", {})
        for metric in (one["MetricStat"]["Metric"] for one in given.get("Metrics", ()) if "MetricStat" in one):
            if metric["Namespace"] in NAMESPACES:
                yield metric["MetricName"], metric["Dimensions"][0]["Value"]


def test_every_metric_that_is_watched_is_told_by_its_module_and_carried(scraped):
    names = set(watched())
    assert ("orderflow_backlog_due", "orders") in names
    assert ("orderflow_backlog_due", "payments") in names
    assert ("orderflow_backlog_due", "webhooks") in names
    assert all(module in scraped[name] for name, module in names)
    for module in WORKERS:
        keep = collector(module)["receivers"]["prometheus"]["config"]["scrape_configs"][0]["metric_relabel_configs"]
        kept = re.compile(keep[0]["regex"])
        assert {name for name in scraped if kept.fullmatch(name)} == {
            name for name, of in names if (of == "webhooks") == (module == "webhooks")
        }


def collector(module):
    [one] = containers(module)["collector"]["Environment"]
    text = one["Value"]["Fn::Sub"]
    return yaml.safe_load(text.replace("${AWS::StackName}", "orderflow").replace("${Orderflow}", "orderflow"))


@pytest.mark.parametrize("module", WORKERS)
def test_the_collector_reads_beside_it_and_writes_where_it_may(module, made):
    config = collector(module)
    assert config["receivers"]["prometheus"]["config"]["scrape_configs"][0]["static_configs"] == [
        {"targets": ["127.0.0.1:7000"]}
    ]
    exporter = config["exporters"]["awsemf"]
    assert exporter["namespace"] == "orderflow"
    assert exporter["metric_declarations"][0]["dimensions"] == [["module"]]
    assert exporter["log_group_name"] in {
        one["logGroupName"] for one in client("logs").describe_log_groups()["logGroups"]
    }
    pipeline = config["service"]["pipelines"]["metrics"]
    assert set(pipeline["receivers"]) == set(config["receivers"])
    assert set(pipeline["exporters"]) == set(config["exporters"])


def test_prometheus_would_read_it_alike(tmp_path):
    tool = shutil.which("promtool")
    if tool is None and not os.environ.get("CI"):
        pytest.skip("promtool is missing; on Debian: apt-get install prometheus")
    (tmp_path / "prometheus.yml").write_text(json.dumps(collector("orders")["receivers"]["prometheus"]["config"]))
    done = subprocess.run(
        [tool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_workers_are_scaled_by_their_backlog_for_each_task_and_the_gateway_by_requests():
    policies = of_type("AWS::ApplicationAutoScaling::ScalingPolicy")
    assert set(policies) == {
        "GatewayByCpu", "GatewayByRequests", "OrdersByCpu", "OrdersByBacklog", "PaymentsByCpu", "PaymentsByBacklog",
        "WebhooksByCpu", "WebhooksByBacklog",
    }  # fmt: skip
    for title in ("Orders", "Payments", "Webhooks"):
        given = policies[f"{title}ByBacklog"]["TargetTrackingScalingPolicyConfiguration"]
        metrics = {one["Id"]: one for one in given["CustomizedMetricSpecification"]["Metrics"]}
        assert metrics["each"]["Expression"] == "due / tasks"
        assert [name for name, one in metrics.items() if one["ReturnData"]] == ["each"]
    # A count up to BACKLOG_LIMIT must be able to request the maximum number of tasks.
    most = Settings().backlog_limit / stack()["Parameters"]["TargetBacklog"]["Default"]
    assert most >= stack()["Parameters"]["OrdersMost"]["Default"]


def test_the_paths_of_health_checks_exist(app):
    paths = {rule.rule for rule in app.url_map.iter_rules()}
    assert properties("GatewayTargets")["HealthCheckPath"] in paths
    for module in WORKERS:
        command = containers(module)[module]["HealthCheck"]["Command"]
        assert command[:3] == ["CMD", "python", "-c"]
        assert re.search(r"'GET', '(\S+)'", command[3])[1] in paths
        compile(command[3], "health", "exec")
