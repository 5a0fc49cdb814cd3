"""A configuration as text: complete, and without its secrets."""

import yaml

from dploylib.config import YAMLConfigMapper, as_yaml
from dploylib.security import Security

TEXT = """
security:
  secret_key: shop.key_secret
  authorized_keys: authorized/
  max_connections_per_address: 50
  servers:
    bank: {mechanism: plain, username: alice, password: "${PLAIN}"}
servers:
  shop:
    orders: {uri: "tcp://127.0.0.1:*", options: {plain_password: "${OPTION}", sndhwm: 5}, timeout: 2.5}
    news: {uri: ["ipc://a", "ipc://b"], options: [[subscribe, a], [curve_secretkey, "${OPTION}"]]}
  bank:
    money: {uri: "ipc://c", security: {password: "${PLAIN}", deny: [10.0.0.0/8]}}
supervision:
  shop: {restart: on-failure}
general:
  api_token: "${TOKEN}"
  shops: [{name: north, db_password: "${TOKEN}"}]
  greeting: hallo
"""
SECRETS = {"PLAIN": "pl41n-s3cret", "OPTION": "opt10n-s3cret", "TOKEN": "t0ken-s3cret"}


def test_all_is_printed_but_secrets():
    settings = YAMLConfigMapper(SECRETS).process_string(TEXT)
    printed = as_yaml(settings)
    assert "s3cret" not in printed
    assert yaml.safe_load(printed) == {
        "servers": {
            "shop": {
                "orders": {
                    "uri": "tcp://127.0.0.1:*",
                    "options": {"plain_password": "***", "sndhwm": 5},
                    "timeout": 2.5,
                },
                "news": {"uri": ["ipc://a", "ipc://b"], "options": [["subscribe", "a"], ["curve_secretkey", "***"]]},
            },
            "bank": {"money": {"uri": "ipc://c", "security": {"password": "***", "deny": ["10.0.0.0/8"]}}},
        },
        "supervision": {"shop": {"restart": "on-failure"}},
        "security": {
            "secret_key": "shop.key_secret",
            "authorized_keys": "authorized/",
            "max_connections_per_address": 50,
            "servers": {"bank": {"mechanism": "plain", "username": "alice", "password": "***"}},
        },
        "general": {"api_token": "***", "shops": [{"name": "north", "db_password": "***"}], "greeting": "hallo"},
    }


def test_what_is_printed_is_a_configuration_again():
    text = "servers: {echo: {request: {uri: 'tcp://127.0.0.1:1', security: {insecure: true}}}}"
    settings = YAMLConfigMapper().process_string(text)
    again = YAMLConfigMapper().process_string(as_yaml(settings))
    assert again.configuration == settings.configuration
    assert again.security("echo", "request") == Security(insecure=True)


def test_passwords_by_other_names_and_in_urls_are_not_printed():
    general = {
        "pwd": "s3cret",
        "pass": "s3cret",
        "mail": {"credentials": "s3cret"},
        "database": "postgres://shop:s3cret@db:5432/shop",
        "others": ["amqp://:s3cret@mq", "see postgres://a:s3cret@b and http://c:80/d@e"],
        "passengers": 5,
        "page": "http://shop.example:8080/a:b@c",
    }
    text = as_yaml(YAMLConfigMapper().process_dict({"servers": {}, "general": general}))
    assert "s3cret" not in text
    assert yaml.safe_load(text)["general"] == {
        "pwd": "***",
        "pass": "***",
        "mail": {"credentials": "***"},
        "database": "postgres://shop:***@db:5432/shop",
        "others": ["amqp://:***@mq", "see postgres://a:***@b and http://c:80/d@e"],
        "passengers": 5,
        "page": "http://shop.example:8080/a:b@c",
    }


def test_what_shows_itself_shows_no_secret():
    settings = YAMLConfigMapper(SECRETS).process_string(TEXT)
    orders = settings.socket_info("shop", "orders")
    assert repr(orders) == (
        "SocketSettings(uri='tcp://127.0.0.1:*', options=[('plain_password', '***'), ('sndhwm', 5)], timeout=2.5)"
    )
    shown = [settings, settings.configuration, settings.server_settings("shop"), settings.security("bank", "money")]
    shown += [settings.socket_info("shop", "news"), settings.socket_info("bank", "money")]
    assert not any("s3cret" in repr(one) for one in shown)
