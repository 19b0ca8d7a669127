"""Offline checks of the cluster files: Ray's schema, EC2's interface, and security (no open ports, a token).

tests/cluster/ runs them.
"""

import copy
import fnmatch
import re
import socket
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("ray.autoscaler._private.util", reason="Ray's autoscaler is not installed")
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

from ray.autoscaler._private.util import prepare_config, validate_config  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
WORLD = ("0.0.0.0/0", "::/0")
# Ray adds these files to the file mounts of every cluster. No exclude pattern may keep them from being copied.
RAYS_OWN_FILES = ("ray_bootstrap_key.pem", "ray_bootstrap_config.yaml", "auth_token")


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def lab() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster/lab.yaml").read_text(encoding="utf-8"))


@pytest.fixture(params=["cluster.yaml", "cluster/lab.yaml"])
def either(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each cluster file in turn."""
    return yaml.safe_load((ROOT / request.param).read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("this test opens no connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as `ray up` sees it, with defaults filled in. Raises an error if it violates Ray's schema."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def worker_types(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: node for name, node in config["available_node_types"].items() if name != config["head_node_type"]}


def all_strings(value: Any) -> Iterator[str]:
    """Every string in nested mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from all_strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from all_strings(item)


def list_security_faults(config: dict[str, Any]) -> list[str]:
    """Return the reasons why others than the owner could reach ports of this cluster, or an empty list if they cannot.

    For every node type that names no security group by id, Ray 2.60 makes a group with SSH open to the world. The rules
    of provider.security_group are added to that group and do not replace it. So the only safe form is to give all node
    types ids.
    """
    faults = [
        f"{text!r} opens a rule to the world" for text in all_strings(config) if any(cidr in text for cidr in WORLD)
    ]
    if "security_group" in config["provider"]:
        faults.append("provider.security_group adds rules to Ray's own open group")
    for name, node in config["available_node_types"].items():
        if not node["node_config"].get("SecurityGroupIds"):
            faults.append(f"{name} names no SecurityGroupIds, so Ray opens port 22 to the world")
    return faults


def test_ray_accepts_the_configuration(config: dict[str, Any]) -> None:
    prepared = validate(config)
    assert prepared["provider"]["type"] == "aws"
    assert prepared["available_node_types"].keys() == config["available_node_types"].keys()


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("idle_timeout_minute", 5, "'idle_timeout_minute' was unexpected"),
        ("auth/ssh_usr", "ubuntu", "'ssh_usr' was unexpected"),
        ("available_node_types/worker.l4/min_worker", 0, "'min_worker' was unexpected"),
        ("max_workers", "eight", "'eight' is not of type 'integer'"),
        ("head_node_type", "head.none", "`head_node_type` must be one of"),
    ],
)
def test_ray_rejects_a_mistake(config: dict[str, Any], path: str, value: object, complaint: str) -> None:
    *parents, key = path.split("/")
    section = config
    for parent in parents:
        section = section[parent]
    section[key] = value
    with pytest.raises((jsonschema.ValidationError, ValueError), match=re.escape(complaint)):
        validate(config)


def test_ports_are_only_open_to_the_owner(config: dict[str, Any]) -> None:
    assert list_security_faults(config) == []


@pytest.mark.parametrize("cidr", WORLD)
def test_an_open_port_is_noticed(config: dict[str, Any], cidr: str) -> None:
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": cidr}]}
    config["provider"]["security_group"] = {"GroupName": "g", "IpPermissions": [rule]}
    assert len(list_security_faults(config)) == 2


def test_a_node_type_without_a_security_group_is_noticed(config: dict[str, Any]) -> None:
    del config["available_node_types"]["worker.l4"]["node_config"]["SecurityGroupIds"]
    assert len(list_security_faults(config)) == 1


def test_ray_does_not_change_the_named_security_groups(config: dict[str, Any]) -> None:
    pytest.importorskip("boto3", reason="boto3 is not installed: Ray's AWS provider cannot be imported")
    from ray.autoscaler._private.aws import config as aws

    # This rule is why groups are named by id. If this fails, Ray has changed: see the comments in cluster.yaml.
    assert "0.0.0.0/0" in list(all_strings(aws._create_default_inbound_rules(["sg-1"], [])))
    validated = validate(config)
    assert aws._configure_security_group(copy.deepcopy(validated)) == validated


def test_ids_are_placeholders_or_valid(config: dict[str, Any]) -> None:
    """The file comes with placeholders, which cannot be launched. All node types have the same image."""
    nodes = [node["node_config"] for node in config["available_node_types"].values()]
    images = {node["ImageId"] for node in nodes}
    groups = {group for node in nodes for group in node["SecurityGroupIds"]}
    assert len(images) == 1
    assert re.fullmatch(r"ami-(REPLACE-ME|[0-9a-f]{8,17})", images.pop())
    assert all(re.fullmatch(r"sg-(REPLACE-ME|[0-9a-f]{8,17})", group) for group in groups)


def test_workers_are_autoscaled_spot_gpus(config: dict[str, Any]) -> None:
    assert worker_types(config)
    for name, node in worker_types(config).items():
        assert node["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot", name
        assert node["resources"]["GPU"] >= 1, name
        assert node["min_workers"] == 0, name
        assert 0 < node["max_workers"] <= config["max_workers"], name
    assert 0 < config["idle_timeout_minutes"] <= 60


def test_the_head_is_on_demand_and_runs_no_trial(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}


@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_starts_with_token_authentication(either: dict[str, Any], role: str) -> None:
    config = either
    starts = [command for command in config[f"{role}_start_ray_commands"] if "ray start" in command]
    assert len(starts) == 1
    before_start = starts[0].split("ray start")[0]
    assert re.search(r"export RAY_AUTH_MODE=token\b", before_start)
    # Shells that are opened later (`ray exec`, jobs) need the mode, too, and every node needs the token.
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    (token,) = [local for remote, local in config["file_mounts"].items() if remote.endswith("/.ray/auth_token")]
    assert token == "~/.ray/auth_token"


def test_the_dashboard_listens_on_loopback(either: dict[str, Any]) -> None:
    hosts = re.findall(r"--dashboard-host[= ](\S+)", " ".join(either["head_start_ray_commands"]))
    assert hosts == ["127.0.0.1"]


def test_the_file_contains_no_secret(either: dict[str, Any]) -> None:
    assert not [
        text for text in all_strings(either) if re.search(r"RAY_AUTH_TOKEN=|AKIA[0-9A-Z]{16}|[0-9a-f]{64}", text)
    ]


def test_the_project_is_copied_and_installed_with_the_tested_versions(either: dict[str, Any]) -> None:
    (project,) = [local for remote, local in either["file_mounts"].items() if remote.endswith("/lopt-sweep")]
    assert project == "."
    (install,) = [command for command in either["setup_commands"] if "pip install" in command]
    assert "-c constraints.txt -e '.[cluster]' && echo \"$wanted\" > ~/lopt-venv/.installed" in install
    assert 'wanted="$(cat constraints.txt pyproject.toml | sha256sum)"' in install
    assert either["rsync_filter"] == [".gitignore"]
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".venv/", "/results/"} <= set(ignored)
    assert not [line for line in ignored if line.startswith("!")], "rsync does not read negated patterns as git does"


def test_no_exclude_pattern_matches_rays_own_files(either: dict[str, Any]) -> None:
    excluded = [
        (pattern, name)
        for pattern in either["rsync_exclude"]
        for name in RAYS_OWN_FILES
        if fnmatch.fnmatch(name, pattern.strip("/"))
    ]
    assert not excluded


def test_results_are_shared_before_ray_starts(config: dict[str, Any]) -> None:
    head, worker = " ".join(config["head_setup_commands"]), " ".join(config["worker_setup_commands"])
    assert "/srv/lopt" in head
    assert "exportfs" in head
    assert "$RAY_HEAD_IP:/srv/lopt" in worker
    assert "/etc/exports.d/lopt.exports" in head
    assert not re.search(r"/etc/exports(?!\.d)|/srv/lopt \*", head), (
        "other exports stay, and no export is for everybody"
    )


def test_machines_of_a_lab_need_no_administrator(lab: dict[str, Any]) -> None:
    commands = [*lab["setup_commands"], *lab["head_start_ray_commands"], *lab["worker_start_ray_commands"]]
    assert not [command for command in commands if re.search(r"\b(sudo|apt-get|mount|exportfs)\b", command)]


def test_a_lab_is_valid_for_ray_and_has_placeholders(lab: dict[str, Any]) -> None:
    assert validate(lab)["available_node_types"]["local.cluster.node"]["min_workers"] == len(
        lab["provider"]["worker_ips"]
    )
    for value in (lab["provider"]["head_ip"], *lab["provider"]["worker_ips"], lab["auth"]["ssh_user"]):
        assert value.endswith("REPLACE-ME")


def test_the_head_of_a_lab_runs_no_trial_and_starts_every_worker(lab: dict[str, Any]) -> None:
    (start,) = [command for command in lab["head_start_ray_commands"] if "ray start" in command]
    assert "--num-cpus=0 --num-gpus=0" in start
    assert "RAY_enable_autoscaler_v2=0" in start.split("ray start")[0], "the other autoscaler starts one worker only"


@pytest.mark.parametrize("role", ["head", "worker"])
def test_every_port_of_a_lab_is_fixed(lab: dict[str, Any], role: str) -> None:
    options = "object-manager-port node-manager-port dashboard-agent-grpc-port dashboard-agent-listen-port"
    options += " runtime-env-agent-port metrics-export-port min-worker-port max-worker-port"
    options += " port ray-client-server-port" if role == "head" else ""
    command = " ".join(lab[f"{role}_start_ray_commands"])
    ports = [re.search(rf"--{option}=(\d+)", command) for option in options.split()]
    assert all(ports), options
    assert len({port[1] for port in ports if port}) == len(ports)


def test_the_client_has_the_tested_versions() -> None:
    def versions(name: str) -> dict[str, str]:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        pins = [line.partition("#")[0].strip().partition("==") for line in lines if "==" in line.partition("#")[0]]
        return {package.partition("[")[0].lower(): version for package, _, version in pins}

    client, tested = versions("requirements-client.txt"), versions("constraints.txt")
    assert client.keys() == {"ray", "boto3", "pyyaml"}
    assert client == {package: tested[package] for package in client}


@pytest.mark.network
@pytest.mark.timeout(900)
def test_a_fresh_environment_of_the_client_can_launch(tmp_path: Path) -> None:
    """`ray up` starts there, and Ray accepts both cluster files. Nothing of the project is installed there."""
    venv.create(tmp_path / "client", with_pip=True)
    python = tmp_path / "client/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "-r", ROOT / "requirements-client.txt"]
    subprocess.run(install, check=True, timeout=800)
    helped = subprocess.run([tmp_path / "client/bin/ray", "up", "--help"], check=True, capture_output=True, text=True)
    assert "Create or update a Ray cluster" in helped.stdout
    code = (
        "import sys, yaml; from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "import ray.autoscaler._private.aws.config\n"
        "for name in sys.argv[1:]: validate_config(prepare_config(yaml.safe_load(open(name))))"
    )
    subprocess.run([python, "-c", code, ROOT / "cluster.yaml", ROOT / "cluster/lab.yaml"], check=True, cwd=tmp_path)


def test_node_configs_fit_ec2(config: dict[str, Any]) -> None:
    """Ray passes node_config unchecked to EC2's RunInstances. It must fit botocore's description of that call."""
    pytest.importorskip("botocore", reason="botocore, which holds the description of the call, is not installed")
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    shape = ServiceModel(Loader().load_service_model("ec2", "service-2")).operation_model("RunInstances").input_shape

    def faults(node_config: dict[str, Any]) -> str:
        return ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node_config}, shape).generate_report()

    for name, node in config["available_node_types"].items():
        assert faults(node["node_config"]) == "", name
    worker = copy.deepcopy(config["available_node_types"]["worker.l4"]["node_config"])
    worker["InstanceMarketOption"] = worker.pop("InstanceMarketOptions")
    assert "InstanceMarketOption" in faults(worker)
