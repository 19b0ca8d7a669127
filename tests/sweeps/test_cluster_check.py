"""The check of a cluster's file before `ray up`."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweeps import cluster_check
from sweeps.cluster_check import Finding, check, check_aws, check_lab
from sweeps.run import main

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parents[2]


def texts_of(findings, is_ok):
    return [finding.text for finding in findings if finding.is_ok is is_ok]


def test_the_file_of_the_project_has_placeholders_and_nothing_is_called(capsys, monkeypatch):
    monkeypatch.setattr(cluster_check, "check_aws", lambda config: [])
    assert main(["cluster-check", str(ROOT / "cluster.yaml")]) == 2
    out = capsys.readouterr().out
    assert out.count("is still a placeholder") == 6
    assert "error    available_node_types.head.cpu.node_config.ImageId is still a placeholder" in out
    assert "6 failed" in out.splitlines()[-1] and "Traceback" not in out


def test_all_is_well_with_a_filled_in_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster_check, "_check_this_machine", lambda: [Finding(True, "this machine is ready")])
    monkeypatch.setattr(cluster_check, "check_aws", lambda config: [Finding(None, "a quota is unknown")])
    text = (ROOT / "cluster.yaml").read_text().replace("ami-REPLACE-ME", "ami-1").replace("sg-REPLACE-ME", "sg-1")
    (tmp_path / "cluster.yaml").write_text(text)
    assert main(["cluster-check", str(tmp_path / "cluster.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["ok       all placeholders are filled in", "ok       this machine is ready",
                         "unknown  a quota is unknown"]  # fmt: skip
    assert lines[3].startswith("2 checks passed, 0 failed, 1 could not be made: you can call ray up")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("a: [", "is not valid YAML"),
        ("- 1", "is not the file of a Ray cluster"),
        ("cluster_name: a", "is not the file of a Ray cluster"),
        ("{cluster_name: a, provider: aws, auth: {}}", "provider and auth must be mappings"),
        ("\udcff", "is not valid YAML"),
    ],
)
def test_a_file_that_is_none_is_named_in_one_line(tmp_path, capsys, text, message):
    file = tmp_path / "cluster.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert main(["cluster-check", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_this_machine_needs_programs_the_tested_ray_and_a_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cluster_check.shutil, "which", lambda name: None if name == "rsync" else name)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.0")
    errors = texts_of(check({"provider": {"type": "gcp"}, "auth": {}}), False)
    assert [error.split(":")[0] for error in errors] == [
        "the program rsync is missing on this machine",
        "Ray is 2.1.0 on this machine, and the machines of the cluster install 2.60.0",
        "there is no ~/.ray/auth_token",
    ]


def test_the_check_needs_no_torch():
    code = "import sys; sys.modules['torch'] = sys.modules['ray'] = None\nfrom sweeps.run import main\n"
    code += "sys.exit(main(['cluster-check', 'cluster.yaml']))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2 and "is still a placeholder" in process.stdout, process.stderr


# --- machines of one's own -------------------------------------------------------------------------------------------


def run_ssh(answers):
    def run(command, **options):
        answer = answers[command[-2].partition("@")[2]]
        if isinstance(answer, Exception):
            raise answer
        code, stdout, stderr = answer
        return SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)

    return run


def test_machines_that_do_not_answer_or_differ_are_named():
    config = {
        "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": [f"10.0.0.{n}" for n in range(2, 6)]},
        "auth": {"ssh_user": "me"},
    }  # fmt: skip
    answers = {
        "10.0.0.1": (0, "Python 3.12.3\nray, version 2.60.0\n", ""),
        "10.0.0.2": (0, "Python 3.11.9\nray, version 2.60.0\n", ""),
        "10.0.0.3": (127, "Python 3.12.3\n", "ray: command not found"),
        "10.0.0.4": (255, "", "Warning\nme@10.0.0.4: Permission denied (publickey)."),
        "10.0.0.5": subprocess.TimeoutExpired("ssh", 30),
    }
    findings = list(check_lab(config, run_ssh(answers)))
    assert texts_of(findings, True) == [
        "10.0.0.1 answers: Python 3.12, Ray 2.60.0",
        "10.0.0.2 answers: Python 3.11, Ray 2.60.0",
    ]
    assert len(texts_of(findings, None)) == 1 and "Ray missing" in texts_of(findings, None)[0]
    denied, silent, different = texts_of(findings, False)
    assert denied == "10.0.0.4 cannot be reached through SSH as me: me@10.0.0.4: Permission denied (publickey)."
    assert "10.0.0.5 cannot be reached through SSH" in silent
    assert "different versions" in different


# --- AWS, with a stand-in of it --------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch):
    """A function that checks a changed file, and the client of EC2's stand-in."""
    moto = pytest.importorskip("moto", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    region = config["provider"]["region"]
    values = {"quota": 1000.0}

    def get_service_quota(ServiceCode, QuotaCode):
        assert ServiceCode == "ec2" and QuotaCode in {code for _, code in cluster_check._QUOTAS.values()}
        if values["quota"] is None:
            raise boto3.client("ec2", region).exceptions.ClientError({"Error": {"Code": "AccessDenied"}}, "GetQuota")
        return {"Quota": {"Value": values["quota"]}}

    def check_with(image, group, quota=1000.0, **changes):
        values["quota"] = quota
        for node_type in config["available_node_types"].values():
            node_type["node_config"].update({"ImageId": image, "SecurityGroupIds": [group], **changes})
        quotas = SimpleNamespace(get_service_quota=get_service_quota)
        clients = {"service-quotas": quotas}
        return list(check_aws(config, lambda name: clients.get(name) or boto3.client(name, region)))

    with moto.mock_aws():
        yield check_with, boto3.client("ec2", region)


def make_group(ec2, *, ssh_from="203.0.113.0/24", inner=True):
    group = ec2.create_security_group(GroupName="lopt", Description="lopt")["GroupId"]
    rules = []
    if ssh_from:
        rules.append({"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ssh_from}]})
    if inner:
        rules.append({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]})
    if rules:
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules)
    return group


def first_image(ec2):
    return ec2.describe_images()["Images"][0]["ImageId"]


def test_a_file_that_fits_the_account_passes(aws):
    check_with, ec2 = aws
    findings = check_with(first_image(ec2), make_group(ec2))
    assert [finding.is_ok for finding in findings] == [True] * len(findings), findings
    text = "\n".join(finding.text for finding in findings)
    assert "the credentials are those of arn:aws" in text and "is available" in text
    assert "'All G and VT Spot Instance Requests' is 1000 virtual CPUs, and the cluster needs 32 at most" in text
    assert "'Running On-Demand Standard instances' is 1000 virtual CPUs, and the cluster needs 4 at most" in text


def test_a_quota_that_is_too_small_or_unknown_is_said(aws):
    check_with, ec2 = aws
    image, group = first_image(ec2), make_group(ec2)
    (error,) = texts_of(check_with(image, group, quota=8.0), False)
    assert "is 8 virtual CPUs, and the cluster needs 32 at most: lower max_workers" in error
    assert len(texts_of(check_with(image, group, quota=None), None)) == 2


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"ssh_from": "0.0.0.0/0"}, "is open to the whole internet"),
        ({"inner": False}, "does not admit all traffic among its members"),
        ({"ssh_from": ""}, "admits SSH from nowhere"),
        (None, "there is no security group sg-1"),
    ],
)
def test_a_security_group_that_does_not_fit_is_named(aws, group, message):
    check_with, ec2 = aws
    (error,) = texts_of(check_with(first_image(ec2), "sg-1" if group is None else make_group(ec2, **group)), False)
    assert message in error


def test_an_image_and_an_instance_type_that_are_not_there_are_named(aws):
    check_with, ec2 = aws
    errors = texts_of(check_with("ami-1", make_group(ec2), InstanceType="g99.huge"), False)
    assert "there is no image ami-1 in us-west-2" in errors[0]
    assert "an instance type of the file is not there in us-west-2" in errors[1]


def test_without_credentials_nothing_else_is_asked(monkeypatch, tmp_path):
    pytest.importorskip("boto3", reason="boto3 is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (finding,) = check_aws({"provider": {"type": "aws", "region": "us-west-2"}})
    assert finding.is_ok is False and "no credentials for AWS" in finding.text
