"""Templates: servers and settings that a service takes over, and servers that they require of it."""

import pytest

from dploylib.config import Settings, YAMLConfigMapper
from dploylib.errors import ConfigurationError
from dploylib.servers import Server
from dploylib.services import Service, ServiceTemplate, required
from dploylib.testing import running
from tests.services.suite import Counts, Echo, Front, Tells, Upper

# A user's class attributes are not annotated.
# ruff: noqa: RUF012

ANYWHERE = "tcp://127.0.0.1:*"


class Louder(Upper):
    """A subclass of what a template names."""


def at(uri=ANYWHERE, **values):
    return {"request": {"uri": uri, **values}}


def problems(service, **config):
    with pytest.raises(ConfigurationError) as caught:
        service.load(**config or {"config_dict": {}})
    return [str(problem) for problem in caught.value.problems]


def template(name="Sample", *bases, **attributes):
    return type(name, bases or (ServiceTemplate,), attributes)


# Servers ---------------------------------------------------------------------------------------------------------


def test_a_subclass_has_the_servers_of_its_bases_with_its_own_over_them():
    class First(ServiceTemplate):
        servers = {"a": Echo, "b": Echo, "c": Echo}

    class Second(First):
        servers = {"b": Upper, "c": None, "d": Counts}

    class Third(Second):
        pass

    assert Service([Third]).server_classes == {"a": Echo, "b": Upper, "d": Counts}
    assert Service([First]).server_classes == {"a": Echo, "b": Echo, "c": Echo}


def test_templates_compose_and_the_later_one_wins():
    one, two = template(servers={"a": Echo, "b": Echo}), template(servers={"b": Upper})
    assert Service([one, two]).server_classes == {"a": Echo, "b": Upper}
    assert Service([two, one]).server_classes == {"a": Echo, "b": Echo}
    dropping = template("Dropping", one, servers={"b": None})
    assert Service([two, dropping]).server_classes == {"a": Echo, "b": Upper}  # it drops what is its own only


def test_an_instance_takes_arguments():
    class Several(ServiceTemplate):
        servers = {"counts": Counts}

        def __init__(self, *names):
            self.servers = dict.fromkeys(names, Echo)
            self.settings = {"servers": {name: at() for name in names}}

    service = Service([Several("a", "b"), Several("c")])
    assert service.server_classes == {"counts": Counts, "a": Echo, "b": Echo, "c": Echo}
    settings = service.load(config_dict={"servers": {"counts": at()}})
    assert sorted(settings.server_names) == ["a", "b", "c", "counts"]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda: object(), "a template is a subclass of ServiceTemplate, or an object of one, not <object"),
        (lambda: Echo, "a template is a subclass of ServiceTemplate, or an object of one, not <class"),
        (lambda: template(servers={"a": Service}), "template Sample: server 'a' must be a subclass of dploylib"),
        (lambda: template(servers=[("a", Echo)]), "template Sample: servers is a mapping, not "),
        (lambda: template(servers={"a": None}), "template Sample: no base has a server 'a', which this one is to be"),
        (lambda: template(settings="servers: {}"), "template Sample: settings is a mapping, not 'servers: {}'"),
        (lambda: template("Sub", template(settings=[])), "template Sample: settings is a mapping"),
        (lambda: required(Service), r"required\(\) takes a subclass of dploylib\.servers\.Server, not <class"),
    ],
)
def test_what_can_be_no_template_is_refused_when_the_service_is_made(wrong, complaint):
    with pytest.raises(TypeError, match=complaint):
        Service([wrong()])


# Required servers ------------------------------------------------------------------------------------------------


def test_a_required_server_comes_from_the_service_or_from_another_template():
    wants = template(servers={"a": required(Upper), "b": required()})
    service = Service([wants, template(servers={"b": Echo})])
    service.add_server("a", Louder)
    assert service.server_classes == {"b": Echo, "a": Louder}
    service.load(config_dict={"servers": {"a": at(), "b": at()}})
    assert Service([template("Sub", wants, servers={"a": Louder, "b": None})]).server_classes == {"a": Louder}


def test_a_required_server_that_is_missing_is_told_with_all_else_that_is_wrong():
    wants = template("Wants", servers={"a": required(Upper), "b": required(), "c": Echo})
    text = "servers:\n  a:\n    request: {uri: 'tcp://127.0.0.1:*'}\n  c:\n    request: {uri: 5}\n"
    wrong, *missing = problems(Service([wants]), config_string=text)
    assert wrong.startswith("string:5: servers.c.request.uri: found 5 (integer)")
    assert missing == [
        "template Wants: servers.a: template Wants requires a server 'a', a subclass of Upper: add it by "
        "add_server('a', ...)",
        "template Wants: servers.b: template Wants requires a server 'b': add it by add_server('b', ...)",
    ]
    assert problems(Service([wants]), config_string="servers: {")[-2:] == missing  # which need no settings


def test_a_server_that_is_not_what_a_template_requires_cannot_be_added():
    service = Service([template("Wants", servers={"a": required(Upper)})])
    complaint = "server 'a' must be a subclass of Upper, as template Wants requires, which Echo is not"
    with pytest.raises(TypeError, match=complaint):
        service.add_server("a", Echo)
    service.add_server("a", Upper)
    mixed = Service([template("Wants", servers={"a": required(Upper)}), template(servers={"a": Echo})])
    assert problems(mixed, config_dict={"servers": {"a": at()}}) == [f"template Wants: servers.a: {complaint}"]
    assert len(problems(mixed, config_dict={"servers": {}})) == 2  # and "a" is not configured
    mixed.add_server("a", Louder)
    mixed.load(config_dict={"servers": {"a": at()}})


# Settings --------------------------------------------------------------------------------------------------------


class Telling(ServiceTemplate):
    servers = {"tells": Tells}
    settings = {"servers": {"tells": at(concurrency=7)}, "general": {"a": 1, "b": {"c": 2, "d": 3}}}


def test_a_service_runs_with_the_settings_of_its_template(make_service, ask, coordinator, leak_check):
    with Service([Telling], coordinator=coordinator()) as service:
        service.start(config_string="general: {b: {c: 5}}", overrides={"general.e": "6"})
        told = {key: ask(service.endpoints["tells"]["request"], key) for key in "abe"}
        assert told == {"a": "1", "b": "{'c': 5, 'd': 3}", "e": "6"}


def test_the_configuration_wins_over_a_template_and_a_later_template_over_an_earlier_one(tmp_path):
    class Patient(Telling):
        settings = {"servers": {"tells": {"request": {"timeout": 3}}}, "general": {"a": 2}}

    other = template(settings={"general": {"a": 4}})
    file = tmp_path / "config.yaml"
    file.write_text("servers: {tells: {request: {uri: 'tcp://127.0.0.1:5'}}}")
    service = Service([Patient, other])
    settings = service.load(config_file=file, overrides={"servers.tells.request.concurrency": "8"})
    request = settings.socket_info("tells", "request")
    assert (request.uri, request.timeout, request.concurrency) == ("tcp://127.0.0.1:5", 3, 8)
    assert settings.get("a") == 4
    assert Service([other, Patient]).load(config_file=file).get("a") == 2


def test_an_error_in_the_settings_of_a_template_names_its_class():
    class Wrong(Telling):
        settings = {"servers": {"tells": {"answer": at()["request"], "request": {"options": {"nolinger": 1}}}}}

    found = problems(Service([template("Sub", Wrong)]), config_string="general:\n  a: ${MISSING}\n")
    assert [one.partition(": ")[0] for one in found] == ["string:2", "template Wrong", "template Wrong"]
    assert "servers.tells.answer: the configuration has a socket 'answer' that server 'tells' lacks" in found[1]
    assert "servers.tells.request.options.nolinger: " in found[2]


def test_settings_for_a_server_are_left_out_when_another_one_replaces_it():
    one = template(
        servers={"a": Upper, "b": Upper, "c": required(Upper)},
        settings={
            "servers": {"a": at(), "b": at(), "c": at()},
            "supervision": {"a": {"restart": "on-failure"}},
            "general": {"a": 1},
        },
    )
    service = Service([one, template(servers={"a": Server, "c": Louder})])
    service.add_server("b", Louder)
    assert service.default_settings == [
        ("template Sample", {"servers": {"b": at(), "c": at()}, "supervision": {}, "general": {"a": 1}})
    ]
    without = Service([template("Sub", one, servers={"a": None, "b": Server, "c": Louder})])
    assert without.default_settings[0][1]["servers"] == {"c": at()}


def test_a_config_mapper_is_asked_with_the_settings_of_templates_if_it_takes_them():
    class Plain:
        def process_dict(self, data):
            return Settings({"servers": {"tells": at()}})

    class Upside(YAMLConfigMapper):
        def process_dict(self, data, **options):
            return super().process_dict({"general": {"a": 9}}, **options)

    assert Service([Telling], config_mapper=Upside()).load(config_dict={}).configuration.general["a"] == 9
    assert Service([template(servers={"tells": Tells})], config_mapper=Plain()).load(config_dict={})
    complaint = (
        r"the config mapper <.*Plain object at .*> takes no settings of templates, but there are some "
        r"\(template Telling\): its method process_dict needs the parameter defaults"
    )
    with pytest.raises(TypeError, match=complaint):
        Service([Telling], config_mapper=Plain()).load(config_dict={})


# In the kit for tests ----------------------------------------------------------------------------------------------


class Pair(ServiceTemplate):
    servers = {"front": Front, "tells": Tells}
    settings = {
        "servers": {
            "tells": at("tcp://127.0.0.1:14445"),
            "front": {**at("tcp://*:14446"), "back": {"uri": "tcp://127.0.0.1:14445"}},
        },
        "general": {"a": 1},
    }


@pytest.mark.usefixtures("leak_check")
@pytest.mark.parametrize("config", [None, {}, {"servers": {"tells": {"request": {"timeout": 5}}}}])
def test_a_service_with_templates_runs_in_a_test_at_endpoints_of_its_own(coordinator, config):
    with running(Service([Pair], coordinator=coordinator()), config) as it:
        assert ":1444" not in repr(it.endpoints)
        assert it.client("front.request").request("a").text == "1"
    with running(Service([Pair], coordinator=coordinator()), config, general={"a": 2}) as it:
        assert it.client("front.request").request("a").text == "2"


@pytest.mark.usefixtures("leak_check")
def test_a_test_needs_no_endpoints_of_a_template():
    bare = template(servers={"tells": Tells, "front": Front}, settings={"general": {"a": 1}})
    with running(Service([bare])) as it:
        assert it.client("tells.request").request("a").text == "1"
