"""The command `lopt-sweep cluster-check cluster.yaml`: whether `ray up` would work, before any money is spent.

It needs only what `ray up` needs (requirements-client.txt). It starts nothing and changes nothing.
"""

import argparse
import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopt import exit_codes
from lopt.errors import to_one_line

_ROOT = Path(__file__).resolve().parents[1]
_PLACEHOLDER = "REPLACE-ME"
_WORLD = ("0.0.0.0/0", "::/0")
_SSH_S = 15.0  # how long a machine may take to answer

# Names and codes of EC2's quotas of virtual CPUs, by the first letters of an instance type and by how it is bought.
_QUOTAS = {
    ("g", "spot"): ("All G and VT Spot Instance Requests", "L-3819A6DF"),
    ("g", "on demand"): ("Running On-Demand G and VT instances", "L-DB2E81BA"),
    ("p", "spot"): ("All P4, P3 and P2 Spot Instance Requests", "L-7212CCBC"),
    ("p", "on demand"): ("Running On-Demand P instances", "L-417A185B"),
    ("", "spot"): ("All Standard Spot Instance Requests", "L-34B43A08"),
    ("", "on demand"): ("Running On-Demand Standard instances", "L-1216C47A"),
}


@dataclass(frozen=True)
class Finding:
    """What one check has found. `is_ok` is None if it could not be found out."""

    is_ok: bool | None
    text: str

    def __str__(self) -> str:
        return f"{({True: 'ok', False: 'error', None: 'unknown'})[self.is_ok]:<8} {self.text}"


def main(argument_words: list[str]) -> int:
    """Run the command, and return its exit code.

    Raises:
        ValueError: The file is not that of a Ray cluster.
    """
    parser = argparse.ArgumentParser(
        prog="lopt-sweep cluster-check",
        description="Check whether `ray up` would work with a cluster's file, before any money is spent.",
    )
    parser.add_argument("file", type=Path, help="the cluster's file, such as cluster.yaml")
    try:
        arguments = parser.parse_args(argument_words)
    except SystemExit as system_exit:  # argparse has printed the help or an error
        return int(system_exit.code or 0)
    findings = []
    for finding in check(read_cluster_file(arguments.file)):
        print(finding, flush=True)
        findings.append(finding)
    errors = sum(finding.is_ok is False for finding in findings)
    unknown = sum(finding.is_ok is None for finding in findings)
    summary = f"{len(findings) - errors - unknown} checks passed, {errors} failed, {unknown} could not be made"
    print(f"{summary}: {'mend what failed before' if errors else 'you can call'} ray up {arguments.file}")
    return exit_codes.USAGE_ERROR if errors else exit_codes.COMPLETE


def read_cluster_file(file: Path) -> dict[str, Any]:
    """Return the content of a cluster's file.

    Raises:
        ValueError: It cannot be read, or is not that of a Ray cluster.
    """
    try:
        import yaml
    except ImportError:
        raise ValueError("PyYAML is missing: pip install -r requirements-client.txt") from None
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {file}: give the file of a cluster, such as cluster.yaml") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is not valid YAML: {to_one_line(error)}") from None
    names = ("cluster_name", "provider", "auth")
    if not isinstance(config, dict) or any(name not in config for name in names):
        raise ValueError(f"{file} is not the file of a Ray cluster: it needs {', '.join(names)}")
    if not isinstance(config["provider"], dict) or not isinstance(config["auth"], dict):
        raise ValueError(f"{file} is not the file of a Ray cluster: provider and auth must be mappings")
    return config


def check(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what the checks of a cluster's file find, the quick ones first."""
    yield from _check_placeholders(config)
    yield from _check_this_machine()
    provider = config["provider"].get("type")
    if provider == "aws":
        yield from check_aws(config)
    elif provider == "local":
        yield from check_lab(config)
    else:
        yield Finding(None, f"machines of provider {provider!r}: only aws and local can be checked")


def _check_placeholders(config: Mapping[str, Any]) -> Iterator[Finding]:
    paths = [path for path, text in _texts(config) if _PLACEHOLDER in text]
    for path in paths:
        yield Finding(False, f"{path} is still a placeholder: fill it in (the comments of the file say how)")
    if not paths:
        yield Finding(True, "all placeholders are filled in")


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield all texts of a file, each with its path, such as `auth.ssh_user`."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{path}[{number}]")


def _check_this_machine() -> Iterator[Finding]:
    """Check programs, versions and the token on the machine that will call `ray up`."""
    missing = [name for name in ("ssh", "rsync") if shutil.which(name) is None]
    for name in missing:
        yield Finding(False, f"the program {name} is missing on this machine: install it")
    if not missing:
        yield Finding(True, "ssh and rsync are there")
    tested = re.search(r"^ray==(\S+)", (_ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    tested_version = tested[1] if tested else ""
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        version = "missing"
    text = f"Ray is {version} on this machine, and the machines of the cluster install {tested_version}"
    is_equal = version == tested_version
    yield Finding(is_equal, text if is_equal else f"{text}: pip install -r requirements-client.txt")
    token = Path("~/.ray/auth_token").expanduser()
    if token.is_file():
        yield Finding(True, "the cluster's token is there (~/.ray/auth_token)")
    else:
        yield Finding(False, "there is no ~/.ray/auth_token: ray get-auth-token --generate > /dev/null")


# --- machines of one's own -------------------------------------------------------------------------------------------


def check_lab(config: Mapping[str, Any], run: Callable[..., Any] = subprocess.run) -> Iterator[Finding]:
    """Yield whether each machine of a cluster with `provider: local` answers through SSH, and with which versions."""
    provider, auth = config["provider"], config["auth"]
    hosts = [provider.get("head_ip"), *(provider.get("worker_ips") or [])]
    # Like Ray, this neither asks for the keys of unknown machines nor keeps them.
    values = ["BatchMode=yes", f"ConnectTimeout={_SSH_S:.0f}", "LogLevel=ERROR", "StrictHostKeyChecking=no",
              "UserKnownHostsFile=/dev/null"]  # fmt: skip
    options = [word for value in values for word in ("-o", value)]
    if auth.get("ssh_private_key"):
        options += ["-i", str(Path(auth["ssh_private_key"]).expanduser())]
    versions: dict[str, str] = {}
    for host in (str(host) for host in hosts if host and _PLACEHOLDER not in str(host)):
        command = ["ssh", *options, f"{auth.get('ssh_user')}@{host}", "bash -lic 'python --version; ray --version'"]
        try:
            process = run(command, capture_output=True, text=True, timeout=2 * _SSH_S, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            yield Finding(False, f"{host} cannot be reached through SSH: {to_one_line(error)}")
            continue
        if process.returncode == 255:  # the code of ssh itself
            reason = to_one_line((process.stderr.strip() or "no reason given").splitlines()[-1])
            yield Finding(False, f"{host} cannot be reached through SSH as {auth.get('ssh_user')}: {reason}")
            continue
        matches = re.search(r"Python (\d+\.\d+)", process.stdout), re.search(r"ray, version (\S+)", process.stdout)
        python, ray = (match[1] if match else "missing" for match in matches)
        versions[host] = f"Python {python}, Ray {ray}"
        if "missing" in (python, ray):
            yield Finding(None, f"{host} answers, but has not all it needs yet ({versions[host]}); ray up sets it up")
        else:
            yield Finding(True, f"{host} answers: {versions[host]}")
    if len({text for text in versions.values() if "missing" not in text}) > 1:
        listed = "; ".join(f"{host}: {text}" for host, text in versions.items())
        yield Finding(False, f"the machines have different versions ({listed}): install the same ones")


# --- AWS -------------------------------------------------------------------------------------------------------------


def check_aws(config: Mapping[str, Any], make_client: Callable[[str], Any] | None = None) -> Iterator[Finding]:
    """Yield whether credentials, images, security groups, instance types and quotas of AWS fit.

    Args:
        make_client: Returns boto3's client of a service. The default asks AWS in the file's region.
    """
    try:
        import boto3
        import botocore.exceptions
    except ImportError:
        yield Finding(False, "boto3 is missing: pip install -r requirements-client.txt")
        return
    region = config["provider"].get("region")
    errors = botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError
    make_client = make_client or (lambda service: boto3.client(service, region_name=region))
    try:
        yield Finding(True, f"the credentials are those of {make_client('sts').get_caller_identity()['Arn']}")
    except errors as error:
        yield Finding(False, f"no credentials for AWS ({to_one_line(error)}): aws configure, or set AWS_PROFILE")
        return
    ec2 = make_client("ec2")
    node_types = {
        name: node_type
        for name, node_type in (config.get("available_node_types") or {}).items()
        if isinstance(node_type, Mapping) and isinstance(node_type.get("node_config"), Mapping)
    }
    node_configs = [node_type["node_config"] for node_type in node_types.values()]
    images = sorted({str(values.get("ImageId", "")) for values in node_configs})
    groups = sorted({group for values in node_configs for group in values.get("SecurityGroupIds") or ()})
    checks: list[Callable[[], Finding]] = [
        *(lambda image=image: _check_image(ec2, image, region) for image in images if _PLACEHOLDER not in image),
        *(lambda group=group: _check_group(ec2, group) for group in groups if _PLACEHOLDER not in group),
    ]
    for make_finding in checks:
        try:
            yield make_finding()
        except errors as error:
            yield Finding(False, f"AWS refuses a question: {to_one_line(error)}")
    try:
        needed_cpus = _needed_cpus(config, node_types, ec2)
    except errors as error:
        yield Finding(False, f"an instance type of the file is not there in {region}: {to_one_line(error)}")
        return
    for (family, market), cpus in needed_cpus.items():
        yield _check_quota(make_client("service-quotas"), family, market, cpus, errors)


def _check_image(ec2: Any, image: str, region: str) -> Finding:
    images = ec2.describe_images(Filters=[{"Name": "image-id", "Values": [image]}])["Images"]
    if not images:
        return Finding(False, f"there is no image {image} in {region}: look up its id for this region (see the file)")
    state, name = images[0].get("State"), images[0].get("Name", "without a name")
    return Finding(state == "available", f"image {image} is {state} ({name})")


def _check_group(ec2: Any, group: str) -> Finding:
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroups"]
    if not groups:
        return Finding(False, f"there is no security group {group}: make one (see the file)")
    rules = groups[0].get("IpPermissions", [])
    sources = {item["CidrIp"] for rule in rules for item in rule.get("IpRanges", [])}
    sources |= {item["CidrIpv6"] for rule in rules for item in rule.get("Ipv6Ranges", [])}
    if open_to := sorted(sources.intersection(_WORLD)):
        return Finding(False, f"security group {group} is open to the whole internet ({', '.join(open_to)}): narrow it")
    inner_rules = [rule for rule in rules if rule.get("IpProtocol") == "-1"]
    if group not in {pair.get("GroupId") for rule in inner_rules for pair in rule.get("UserIdGroupPairs", [])}:
        return Finding(False, f"security group {group} does not admit all traffic among its members: add that rule")
    has_ssh = any(
        rule.get("IpProtocol") == "-1" or rule.get("FromPort", 65536) <= 22 <= rule.get("ToPort", -1)
        for rule in rules
        if rule.get("IpRanges") or rule.get("Ipv6Ranges")
    )
    text = f"security group {group} admits SSH from {', '.join(sorted(sources))}, and its members among themselves"
    return Finding(True, text) if has_ssh else Finding(False, f"security group {group} admits SSH from nowhere")


def _needed_cpus(
    config: Mapping[str, Any], node_types: Mapping[str, Mapping[str, Any]], ec2: Any
) -> dict[tuple[str, str], int]:
    """Return how many virtual CPUs the cluster needs at most, by the quota that counts them (a key of `_QUOTAS`)."""
    largest_count = int(config.get("max_workers") or 0)
    needed_cpus: dict[tuple[str, str], int] = {}
    for name, node_type in node_types.items():
        values = node_type["node_config"]
        instance_type = str(values.get("InstanceType"))
        (description,) = ec2.describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"]
        is_head = name == config.get("head_node_type")
        count = 1 if is_head else min(largest_count, int(node_type.get("max_workers", largest_count)))
        family = instance_type[0] if instance_type[0] in ("g", "p") else ""
        market = "spot" if (values.get("InstanceMarketOptions") or {}).get("MarketType") == "spot" else "on demand"
        cpus = count * description["VCpuInfo"]["DefaultVCpus"]
        needed_cpus[family, market] = max(cpus, needed_cpus.get((family, market), 0))
    return needed_cpus


def _check_quota(quotas: Any, family: str, market: str, cpus: int, errors: tuple[type[Exception], ...]) -> Finding:
    name, code = _QUOTAS[family, market]
    try:
        value = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
    except errors as error:
        return Finding(None, f"quota {name!r}: {to_one_line(error)}")
    text = f"quota {name!r} is {value:g} virtual CPUs, and the cluster needs {cpus} at most"
    advice = "lower max_workers, or ask AWS for more (Service Quotas)"
    return Finding(value >= cpus, text if value >= cpus else f"{text}: {advice}")
