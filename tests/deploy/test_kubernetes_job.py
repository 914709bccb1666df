"""What the manifest of the warming job says of the command line and of the servers."""

import shlex

from pairlens import cli_connection
from pairlens.cli import build_parser
from tests.deploy.rendering import (
    container,
    needs_kubectl,
    one,
    overlay,
    variables,
    with_components,
)

pytestmark = needs_kubectl


def test_the_job_works_on_every_part_once():
    job = one(overlay("warm"), "Job")["spec"]
    assert job["completionMode"] == "Indexed"
    given = variables(container(overlay("warm"), "Job"))
    assert given["PARTS"] == str(job["completions"])
    assert job["completions"] % job["parallelism"] == 0
    # One state file for each part of this job, on a volume that outlives the pod.
    mounts = {m["mountPath"] for m in container(overlay("warm"), "Job")["volumeMounts"]}
    assert {"/state", "/gallery"} <= mounts
    (uid,) = (v for v in container(overlay("warm"), "Job")["env"] if v["name"] == "JOB_UID")
    assert uid["valueFrom"] == {
        "fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/controller-uid']"}
    }


def test_the_commands_of_the_job_are_those_of_the_cli():
    script = container(overlay("warm"), "Job")["command"][-1]
    command = script.replace("\\\n", " ").partition("exec ")[2]
    command = command.replace("$shard", "1/2").replace("$state", "/state/part.job")
    program, *arguments = shlex.split(command)
    assert program == "pairlens"
    parsed = build_parser().parse_args(arguments)
    assert (str(parsed.folder), parsed.shard.index, parsed.shard.count) == ("/gallery", 1, 2)
    assert str(parsed.state) == "/state/part.job"
    assert 'part="/state/$MODEL-$JOB_COMPLETION_INDEX-of-$PARTS"' in script


def test_variables_of_the_cli():
    # What its help tells.
    for name in variables(container(with_components("warm", "client-credentials"), "Job")):
        assert not name.startswith("PAIRLENS_") or name in cli_connection.ENVIRONMENT


def test_clients_dial_the_service():
    target = variables(container(overlay("warm"), "Job"))["PAIRLENS_SERVER"]
    service = one(overlay("cpu-dev"), "Service")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert target == f"dns:///{service['metadata']['name']}:{ports['grpc']}"
