"""The tree of errors: every class of code, what is caught by what, and that errors travel."""

from __future__ import annotations

import copy
import pickle

import pytest

from cpspika import errors, spec
from cpspika.errors import AMQPError, ChannelClosed, ConnectionClosed
from cpspika.wire.message import Envelope, Message

CLASSES = [getattr(errors, name) for name in errors.__all__]
SCOPES = [ChannelClosed, ConnectionClosed, errors.LoginError, errors.VirtualHostRefused]
NAMES = {  # Python's own words get an underscore, and 505 stands beside pika's UnexpectedFrameError
    502: "AMQPSyntaxError",
    540: "AMQPNotImplemented",
}


def by_code(code: int) -> type[AMQPError]:
    name = NAMES.get(code) or spec.REPLY_CODES[code].name.title().replace("-", "")
    cls: type[AMQPError] = getattr(errors, name)
    return cls


every_code = pytest.mark.parametrize("code", spec.REPLY_CODES)
every_scope = pytest.mark.parametrize("scope", SCOPES)


def test_all_that_is_an_error_is_listed_and_stands_under_the_one() -> None:
    here = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and not name.startswith("_")
    }
    assert here == set(errors.__all__)
    assert all(issubclass(cls, AMQPError) for cls in CLASSES)


def test_a_class_is_local_or_remote_and_not_both() -> None:
    for cls in CLASSES:
        assert not (issubclass(cls, errors.LocalError) and issubclass(cls, errors.RemoteError)), cls


@pytest.mark.parametrize(
    ("name", "parents"),
    [
        ("LoginError", "AMQPConnectionError"), ("NoFreeChannels", "AMQPConnectionError"),
        ("ContentTransmissionForbidden", "AMQPConnectionError"), ("ConnectionClosed", "AMQPConnectionError"),
        ("DuplicateConsumerTag", "AMQPChannelError"), ("UnknownConsumerTag", "AMQPChannelError"),
        ("ChannelClosed", "AMQPChannelError"), ("UnexpectedFrameError", "ProtocolSyntaxError"),
        ("ProtocolVersionMismatch", "ProtocolSyntaxError"), ("BodyTooLongError", "ProtocolSyntaxError"),
        ("InvalidFrameError", "ProtocolSyntaxError"), ("InvalidProtocolHeader", "ProtocolSyntaxError"),
        ("InvalidTableError", "ProtocolSyntaxError"),
    ],
)  # fmt: skip
def test_the_names_of_pika_0_5_stand_where_they_stood(name: str, parents: str) -> None:
    assert issubclass(getattr(errors, name), getattr(errors, parents))


@pytest.mark.parametrize(
    ("name", "builtin"),
    [("InvalidArgument", ValueError), ("InvalidArgumentType", TypeError), ("OperationTimeout", TimeoutError),
     ("ConnectTimeout", TimeoutError)],
)  # fmt: skip
def test_what_python_has_a_name_for_is_that_too(name: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), builtin)


@every_code
def test_every_reply_code_has_a_class(code: int) -> None:
    cls = by_code(code)
    assert cls.code == code
    assert cls("what happened").code == code
    assert str(code) in (cls.__doc__ or "")
    assert issubclass(cls, errors.RemoteError)


@every_code
@every_scope
def test_an_error_of_a_close_is_of_its_code_and_of_its_scope(code: int, scope: type[AMQPError]) -> None:
    error = errors.closed(scope, code, "what happened")
    assert isinstance(error, by_code(code))
    assert isinstance(error, scope)
    assert error.code == code
    assert str(error) == f"{code} what happened"
    assert type(error) is type(errors.closed(scope, code, "again"))


@every_scope
@pytest.mark.parametrize("code", [0, 200, 299, 550, 65535])
def test_an_unknown_code_is_of_the_scope_alone(scope: type[AMQPError], code: int) -> None:
    error = errors.closed(scope, code, "what happened")
    assert type(error) is scope
    assert error.code == code


def test_the_class_of_a_code_catches_it_whatever_it_closed() -> None:
    for scope in SCOPES:
        with pytest.raises(errors.NotFound):
            raise errors.closed(scope, 404, "no queue")
    with pytest.raises(ChannelClosed):
        raise errors.closed(ChannelClosed, 404, "no queue")
    assert not isinstance(errors.closed(ChannelClosed, 404, "no queue"), ConnectionClosed)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (AMQPError(), "AMQPError"),
        (AMQPError("gone"), "gone"),
        (AMQPError("gone", code=404), "404 gone"),
        (AMQPError("404 gone", code=404), "404 gone"),
        (AMQPError("gone", method="queue.bind"), "gone (queue.bind)"),
        (
            AMQPError("gone", code=404, method="queue.bind", asked_at="a.py:3 in main"),
            "404 gone (queue.bind asked for at a.py:3 in main)",
        ),
        (errors.NotFound(), "404 NotFound"),
    ],
)
def test_an_error_tells_code_text_method_and_place(error: AMQPError, shown: str) -> None:
    assert str(error) == shown


def test_an_error_answers_many_operations_by_copies() -> None:
    first = errors.closed(ChannelClosed, 404, "no queue")
    first.__cause__ = OSError("why")
    one, two = first.of("queue.bind", "a.py:3 in main"), first.of("basic.get", None)
    assert (one.method, one.asked_at, two.method, two.asked_at) == ("queue.bind", "a.py:3 in main", "basic.get", None)
    assert (first.method, first.asked_at) == (None, None)
    for mine in (one, two):
        assert type(mine) is type(first)
        assert mine.__cause__ is first.__cause__
        assert (mine.code, mine.text) == (404, "no queue")


def test_a_copy_for_an_operation_has_no_traceback_of_another() -> None:
    try:
        raise AMQPError("gone")
    except AMQPError as error:
        assert error.of("basic.get", None).__traceback__ is None  # noqa: PT017


def _same(one: AMQPError, other: AMQPError) -> None:
    assert type(one) is type(other)
    assert str(one) == str(other)
    assert vars(one) == vars(other)
    assert one.args == other.args


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_pickles_and_copies(cls: type[AMQPError]) -> None:
    error = cls("what happened", code=404, method="queue.bind", asked_at="a.py:3 in main")
    error.noted = ["by the user"]  # type: ignore[attr-defined]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        _same(pickle.loads(pickle.dumps(error, protocol)), error)
    _same(copy.copy(error), error)
    _same(copy.deepcopy(error), error)


@every_code
@every_scope
def test_an_error_of_a_close_pickles_and_copies(code: int, scope: type[AMQPError]) -> None:
    error = errors.closed(scope, code, "what happened").of("queue.bind", "a.py:3 in main")
    _same(pickle.loads(pickle.dumps(error)), error)
    _same(copy.copy(error), error)
    _same(copy.deepcopy(error), error)


def test_an_error_class_of_the_users_pickles() -> None:
    error = Mine("what happened", code=404)
    _same(pickle.loads(pickle.dumps(error)), error)


class Mine(errors.ConnectError):
    pass


def test_a_returned_message_travels_with_its_error() -> None:
    error = errors.MessageReturned("NO_ROUTE", code=312, message={"body": b"x"})
    assert pickle.loads(pickle.dumps(error)).message == {"body": b"x"}
    assert error.of("basic.publish", None).message == {"body": b"x"}


def test_a_return_pickles_with_its_message_and_without_the_channel() -> None:
    returned = Message(Envelope("basic.return", routing_key="nowhere"), 0, b"body")
    returned.channel = lambda: "cannot be pickled"
    twin = pickle.loads(pickle.dumps(errors.MessageReturned("NO_ROUTE", code=312, message=returned)))
    assert (twin.code, twin.message.body, twin.message.routing_key) == (312, b"body", "nowhere")
    assert twin.message.channel is None


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ProtocolSyntaxError", 502), ("InvalidTableError", 502), ("UnexpectedFrameError", 505),
        ("UnexpectedMethodError", 503), ("UnopenedChannelError", 504), ("InvalidFrameError", 501),
        ("BodyTooLongError", 501), ("UnknownMethodError", 540),
    ],
)  # fmt: skip
def test_a_mistake_of_the_peers_knows_the_code_to_close_with(name: str, code: int) -> None:
    assert getattr(errors, name)("wrong").code == code
    assert spec.REPLY_CODES[code].hard
