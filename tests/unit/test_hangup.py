"""A client that has gone is noticed while its request waits, and only then."""

import socket
import threading
from collections.abc import Iterator

import pytest

from api.hangup import Hangups

PATIENCE_S = 20

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The server's and the client's end of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    with server, client:
        yield server, client


@pytest.mark.parametrize("how", ["close", "half", "reset"])
def test_who_waits_is_told_that_the_client_has_gone(pair: Pair, how: str) -> None:
    server, client = pair
    told = threading.Event()

    with Hangups().watch({"gunicorn.socket": server}, told.set) as watched:
        if how == "half":
            client.shutdown(socket.SHUT_WR)
        else:
            if how == "reset":
                linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.close()

        assert told.wait(PATIENCE_S)
        assert watched.has_gone


def test_who_had_gone_before_is_noticed_too(pair: Pair) -> None:
    server, client = pair
    client.close()
    told = threading.Event()

    with Hangups().watch({"gunicorn.socket": server}, told.set):
        assert told.wait(PATIENCE_S)


def test_a_client_that_sends_more_has_not_gone(pair: Pair) -> None:
    server, client = pair
    hangups, told, other = Hangups(), threading.Event(), threading.Event()

    with hangups.watch({"gunicorn.socket": server}, told.set) as watched:
        client.sendall(b"GET /next HTTP/1.1\r\n\r\n")
        assert server.recv(1000)
        gone, peer = socket.socketpair()
        peer.close()
        with gone, hangups.watch({"gunicorn.socket": gone}, other.set):
            assert other.wait(PATIENCE_S)  # so the thread has looked since

        assert not watched.has_gone


def test_who_watches_no_more_is_told_nothing(pair: Pair) -> None:
    server, client = pair
    hangups, told, still = Hangups(), threading.Event(), threading.Event()

    with hangups.watch({"gunicorn.socket": server}, still.set):
        with hangups.watch({"gunicorn.socket": server}, told.set):
            pass
        client.close()
        assert still.wait(PATIENCE_S)
        late = threading.Event()
        with hangups.watch({"gunicorn.socket": server}, late.set):
            assert late.wait(PATIENCE_S)

    assert not told.is_set()


def test_one_thread_watches_all_and_outlives_who_fails(pair: Pair) -> None:
    hangups, before = Hangups(), threading.active_count()
    pairs = [socket.socketpair() for _ in range(50)]
    told = [threading.Event() for _ in pairs]

    def fail() -> None:
        raise ValueError

    watches = [
        hangups.watch({"gunicorn.socket": ours}, event.set)
        for (ours, _), event in zip(pairs, told, strict=True)
    ]
    for watch in watches:
        watch.__enter__()
    with hangups.watch({"gunicorn.socket": pair[0]}, fail):
        pair[1].close()
        for _, theirs in pairs[::2]:
            theirs.close()
        assert all(event.wait(PATIENCE_S) for event in told[::2])
        assert threading.active_count() == before + 1
    for watch in watches:
        watch.__exit__(None, None, None)

    assert not any(event.is_set() for event in told[1::2])
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_a_socket_that_the_server_has_closed_is_let_go(pair: Pair) -> None:
    server, _ = pair
    hangups = Hangups()

    with hangups.watch({"gunicorn.socket": server}, lambda: None):
        server.close()
    other, peer = socket.socketpair()
    told = threading.Event()
    with other, hangups.watch({"gunicorn.socket": other}, told.set):
        peer.close()
        assert told.wait(PATIENCE_S)


def test_without_a_socket_nobody_goes() -> None:
    with Hangups().watch({}, lambda: None) as client:
        assert not client.has_gone
