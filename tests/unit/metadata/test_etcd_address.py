"""Addresses of an etcd as users write them."""

from __future__ import annotations

import pytest

from bytemq.errors import Invalid
from bytemq.metadata.etcd.address import parse_address
from bytemq.metadata.etcd.store import MemberStatus, are_usable


def test_address__names_members_and_prefix() -> None:
    address = parse_address("etcd://one:2379,two,[::1]:99,[::2]/clusters/orders/", {})
    assert address.endpoints == ("one:2379", "two:2379", "[::1]:99", "[::2]:2379")
    assert address.prefix == "clusters/orders/"
    assert not address.is_encrypted and not address.user


def test_address__takes_credentials_from_the_url_or_the_environment() -> None:
    named = parse_address("etcd://me:p%40ss@one/c", {"ETCDCTL_USER": "other:word"})
    assert (named.user, named.password) == ("me", "p@ss")
    assert parse_address("etcd://one/c", {"ETCDCTL_USER": "me:word"})[2:4] == ("me", "word")
    assert parse_address("etcd://one/c", {"ETCDCTL_USER": "me", "ETCDCTL_PASSWORD": "word"})[2:4] == ("me", "word")


@pytest.mark.parametrize("url", ["etcds://one/c", "etcd://one/c?ca=ca.pem"])
def test_address__is_encrypted_where_it_says_so_or_names_a_file(url: str) -> None:
    assert parse_address(url, {}).is_encrypted
    assert parse_address("etcd://one/c", {"ETCDCTL_CACERT": "ca.pem"}).is_encrypted


@pytest.mark.parametrize("version", ["2.3.8", "3.3.27", "4.0.0", "", "nonsense"])
def test_version__that_is_not_known_is_refused(version: str) -> None:
    with pytest.raises(Invalid, match=r"version .*3\.4"):
        are_usable([MemberStatus("one:2379", "3.5.21"), MemberStatus("two:2379", version)])


def test_version__of_those_that_answer_is_what_counts() -> None:
    assert are_usable([MemberStatus("one:2379", "3.6.1"), MemberStatus("two:2379", problem="is down")])
    assert not are_usable([MemberStatus("one:2379", problem="is down")])


def test_address__shows_no_password() -> None:
    assert str(parse_address("etcd://me:secret@one,two/c?ca=x", {})) == "etcds://one:2379,two:2379/c"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://one/c", "no address of an etcd"),
        ("etcd://one", "prefix"),
        ("etcd://one:port/c", "HOST:PORT"),
        ("etcd://one:99999/c", "HOST:PORT"),
        ("etcd:///c", "HOST:PORT"),
        ("etcd://[::1/c", "HOST:PORT"),
        ("etcd://one/c?tls=1", "no parameter tls"),
        ("etcd://one/c?cert=x", "both its files"),
    ],
)
def test_address__that_makes_no_sense_is_refused_with_a_sentence(url: str, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        parse_address(url, {})
