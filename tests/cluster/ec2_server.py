"""A stand-in for EC2 (moto) and for the instance metadata service, as a program in the network of the machines.

It prints one JSON object a line: {"instance": ...} when an instance has a new state, and {"call": ...} for each call of
the interface. It reads such lines, too: {"terminate": ID} takes an instance away, as AWS takes a spot instance.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.cluster.ec2 import HEAD_KEY, METADATA, PORT, REGION, ROLE

_lock = threading.Lock()
_head_ips: set[str] = set()
_networks: dict[str, str] = {}  # by the address of a machine: the addresses of its VPC


def say(**event: object) -> None:
    with _lock:
        print(json.dumps(event), flush=True)


class Recorder:
    """Passes each request to moto, and prints who called what."""

    def __init__(self, app: DomainDispatcherApplication) -> None:
        self._app = app

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        # AWS launches MaxCount instances if it can. moto launches MinCount.
        if most := re.search(rb"MaxCount=(\d+)", body):
            body = re.sub(rb"MinCount=\d+", b"MinCount=" + most[1], body)
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        action = parse_qs(body.decode(errors="replace")).get("Action", ["?"])[0]
        credential = re.search(r"Credential=(\w+)/\d+/[\w-]+/(\w+)/", environ.get("HTTP_AUTHORIZATION", ""))
        key, service = credential.groups() if credential else ("", "")

        def start(status, headers, exc_info=None):
            say(call={"key": key, "action": f"{service}:{action}", "status": int(status.split()[0])})
            return start_response(status, headers, exc_info)

        return self._app(environ, start)


class Quiet(WSGIRequestHandler):
    def log(self, *_args: object, **_options: object) -> None:
        pass


class Metadata(BaseHTTPRequestHandler):
    """Version 2 of the instance metadata service: it asks for a token. Only heads have a role."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer("token" if self.path == "/latest/api/token" else None)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "token":
            self.send_error(401)
            return
        ip = self.client_address[0]
        mac = "02:00:" + ":".join(f"{int(part):02x}" for part in ip.split("."))
        answers = {"mac": mac, f"network/interfaces/macs/{mac}/vpc-ipv4-cidr-blocks": _networks.get(ip)}
        if ip in _head_ips:
            role = {"Code": "Success", "AccessKeyId": HEAD_KEY, "SecretAccessKey": "s", "Token": "t"}
            role |= {"Expiration": "2100-01-01T00:00:00Z", "LastUpdated": "2026-01-01T00:00:00Z", "Type": "AWS-HMAC"}
            answers |= {"iam/security-credentials/": ROLE, f"iam/security-credentials/{ROLE}": json.dumps(role)}
        self._answer(answers.get(self.path.removeprefix("/latest/meta-data/")))

    def _answer(self, text: str | None) -> None:
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_args: object) -> None:
        pass


def watch_instances(ec2) -> None:
    """Print every new state of an instance. If this fails, the program ends."""
    states: dict[str, str] = {}
    try:
        while True:
            print_changes(ec2, states)
            time.sleep(1)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def print_changes(ec2, states: dict[str, str]) -> None:
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            name, state = instance["InstanceId"], instance["State"]["Name"]
            if state not in ("running", "terminated") or states.get(name) == state:
                continue
            states[name] = state
            tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
            ip = instance.get("PrivateIpAddress", "")
            if state == "running":
                vpc = ec2.describe_vpcs(VpcIds=[instance["VpcId"]])["Vpcs"][0]
                _networks[ip] = vpc["CidrBlock"]
                if tags.get("ray-node-type") == "head":
                    _head_ips.add(ip)
            key_pair = ec2.describe_key_pairs(KeyNames=[instance["KeyName"]], IncludePublicKey=True)["KeyPairs"][0]
            keys = ("PublicIpAddress", "InstanceType", "InstanceLifecycle")
            about = {"id": name, "state": state, "ip": ip, "tags": tags, "public_key": key_pair["PublicKey"]}
            say(instance={**about, **{key: instance.get(key) for key in keys}})


def main() -> None:
    host = sys.argv[1]
    server = make_server(
        host, PORT, Recorder(DomainDispatcherApplication(create_backend_app)), threaded=True, request_handler=Quiet
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=ThreadingHTTPServer((METADATA, 80), Metadata).serve_forever, daemon=True).start()
    ec2 = boto3.client(
        "ec2", REGION, endpoint_url=f"http://{host}:{PORT}", aws_access_key_id="TESTKEY", aws_secret_access_key="s"
    )
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="lopt-sweep", Description="lopt-sweep", VpcId=vpc)["GroupId"]
    iam = boto3.client(
        "iam", REGION, endpoint_url=f"http://{host}:{PORT}", aws_access_key_id="TESTKEY", aws_secret_access_key="s"
    )
    iam.create_instance_profile(InstanceProfileName=ROLE)
    say(ready={"group": group, "image": ec2.describe_images()["Images"][0]["ImageId"]})
    threading.Thread(target=watch_instances, args=(ec2,), daemon=True).start()
    for line in sys.stdin:
        ec2.terminate_instances(InstanceIds=[json.loads(line)["terminate"]])


if __name__ == "__main__":
    main()
