from typing import Any

from . import amqp_object

methods: dict[int, Any]

class Connection(amqp_object.Class):
    class Start(amqp_object.Method):
        version_major: int
        version_minor: int
        server_properties: dict[str, Any] | None
        mechanisms: str | bytes
        locales: str | bytes
        def __init__(
            self,
            version_major: int = ...,
            version_minor: int = ...,
            server_properties: dict[str, Any] | None = ...,
            mechanisms: str | bytes = ...,
            locales: str | bytes = ...,
        ) -> None: ...

    class StartOk(amqp_object.Method):
        client_properties: dict[str, Any] | None
        mechanism: str
        response: str | bytes
        locale: str
        def __init__(
            self,
            client_properties: dict[str, Any] | None = ...,
            mechanism: str = ...,
            response: str | bytes = ...,
            locale: str = ...,
        ) -> None: ...

    class Secure(amqp_object.Method):
        challenge: str | bytes
        def __init__(self, challenge: str | bytes = ...) -> None: ...

    class SecureOk(amqp_object.Method):
        response: str | bytes
        def __init__(self, response: str | bytes = ...) -> None: ...

    class Tune(amqp_object.Method):
        channel_max: int
        frame_max: int
        heartbeat: int
        def __init__(self, channel_max: int = ..., frame_max: int = ..., heartbeat: int = ...) -> None: ...

    class TuneOk(amqp_object.Method):
        channel_max: int
        frame_max: int
        heartbeat: int
        def __init__(self, channel_max: int = ..., frame_max: int = ..., heartbeat: int = ...) -> None: ...

    class Open(amqp_object.Method):
        virtual_host: str
        capabilities: str
        insist: bool
        def __init__(self, virtual_host: str = ..., capabilities: str = ..., insist: bool = ...) -> None: ...

    class OpenOk(amqp_object.Method):
        known_hosts: str
        def __init__(self, known_hosts: str = ...) -> None: ...

    class Close(amqp_object.Method):
        reply_code: int
        reply_text: str
        class_id: int
        method_id: int
        def __init__(
            self, reply_code: int = ..., reply_text: str = ..., class_id: int = ..., method_id: int = ...
        ) -> None: ...

    class CloseOk(amqp_object.Method):
        def __init__(self) -> None: ...

    class Blocked(amqp_object.Method):
        reason: str
        def __init__(self, reason: str = ...) -> None: ...

    class Unblocked(amqp_object.Method):
        def __init__(self) -> None: ...

    class UpdateSecret(amqp_object.Method):
        new_secret: str | bytes
        reason: str
        def __init__(self, new_secret: str | bytes = ..., reason: str = ...) -> None: ...

    class UpdateSecretOk(amqp_object.Method):
        def __init__(self) -> None: ...

class Channel(amqp_object.Class):
    class Open(amqp_object.Method):
        out_of_band: str
        def __init__(self, out_of_band: str = ...) -> None: ...

    class OpenOk(amqp_object.Method):
        channel_id: str | bytes
        def __init__(self, channel_id: str | bytes = ...) -> None: ...

    class Flow(amqp_object.Method):
        active: bool
        def __init__(self, active: bool = ...) -> None: ...

    class FlowOk(amqp_object.Method):
        active: bool
        def __init__(self, active: bool = ...) -> None: ...

    class Close(amqp_object.Method):
        reply_code: int
        reply_text: str
        class_id: int
        method_id: int
        def __init__(
            self, reply_code: int = ..., reply_text: str = ..., class_id: int = ..., method_id: int = ...
        ) -> None: ...

    class CloseOk(amqp_object.Method):
        def __init__(self) -> None: ...

class Access(amqp_object.Class):
    class Request(amqp_object.Method):
        realm: str
        exclusive: bool
        passive: bool
        active: bool
        write: bool
        read: bool
        def __init__(
            self,
            realm: str = ...,
            exclusive: bool = ...,
            passive: bool = ...,
            active: bool = ...,
            write: bool = ...,
            read: bool = ...,
        ) -> None: ...

    class RequestOk(amqp_object.Method):
        ticket: int
        def __init__(self, ticket: int = ...) -> None: ...

class Exchange(amqp_object.Class):
    class Declare(amqp_object.Method):
        ticket: int
        exchange: str
        type: str
        passive: bool
        durable: bool
        auto_delete: bool
        internal: bool
        nowait: bool
        arguments: dict[str, Any] | None
        def __init__(
            self,
            ticket: int = ...,
            exchange: str = ...,
            type: str = ...,
            passive: bool = ...,
            durable: bool = ...,
            auto_delete: bool = ...,
            internal: bool = ...,
            nowait: bool = ...,
            arguments: dict[str, Any] | None = ...,
        ) -> None: ...

    class DeclareOk(amqp_object.Method):
        def __init__(self) -> None: ...

    class Delete(amqp_object.Method):
        ticket: int
        exchange: str
        if_unused: bool
        nowait: bool
        def __init__(
            self, ticket: int = ..., exchange: str = ..., if_unused: bool = ..., nowait: bool = ...
        ) -> None: ...

    class DeleteOk(amqp_object.Method):
        def __init__(self) -> None: ...

    class Bind(amqp_object.Method):
        ticket: int
        destination: str
        source: str
        routing_key: str
        nowait: bool
        arguments: dict[str, Any] | None
        def __init__(
            self,
            ticket: int = ...,
            destination: str = ...,
            source: str = ...,
            routing_key: str = ...,
            nowait: bool = ...,
            arguments: dict[str, Any] | None = ...,
        ) -> None: ...

    class BindOk(amqp_object.Method):
        def __init__(self) -> None: ...

    class Unbind(amqp_object.Method):
        ticket: int
        destination: str
        source: str
        routing_key: str
        nowait: bool
        arguments: dict[str, Any] | None
        def __init__(
            self,
            ticket: int = ...,
            destination: str = ...,
            source: str = ...,
            routing_key: str = ...,
            nowait: bool = ...,
            arguments: dict[str, Any] | None = ...,
        ) -> None: ...

    class UnbindOk(amqp_object.Method):
        def __init__(self) -> None: ...

class Queue(amqp_object.Class):
    class Declare(amqp_object.Method):
        ticket: int
        queue: str
        passive: bool
        durable: bool
        exclusive: bool
        auto_delete: bool
        nowait: bool
        arguments: dict[str, Any] | None
        def __init__(
            self,
            ticket: int = ...,
            queue: str = ...,
            passive: bool = ...,
            durable: bool = ...,
            exclusive: bool = ...,
            auto_delete: bool = ...,
            nowait: bool = ...,
            arguments: dict[str, Any] | None = ...,
        ) -> None: ...

    class DeclareOk(amqp_object.Method):
        queue: str
        message_count: int
        consumer_count: int
        def __init__(self, queue: str = ..., message_count: int = ..., consumer_count: int = ...) -> None: ...

    class Bind(amqp_object.Method):
        ticket: int
        queue: str
        exchange: str
        routing_key: str
        nowait: bool
        arguments: dict[str, Any] | None
        def __init__(
            self,
            ticket: int = ...,
            queue: str = ...,
            exchange: str = ...,
            routing_key: str = ...,
            nowait: bool = ...,
            arguments: dict[str, Any] | None = ...,
        ) -> None: ...

    class BindOk(amqp_object.Method):
        def __init__(self) -> None: ...

    class Purge(amqp_object.Method):
        ticket: int
        queue: str
        nowait: bool
        def __init__(self, ticket: int = ..., queue: str = ..., nowait: bool = ...) -> None: ...

    class PurgeOk(amqp_object.Method):
        message_count: int
        def __init__(self, message_count: int = ...) -> None: ...

    class Delete(amqp_object.Method):
        ticket: int
        queue: str
        if_unused: bool
        if_empty: bool
        nowait: bool
        def __init__(
            self, ticket: int = ..., queue: str = ..., if_unused: bool = ..., if_empty: bool = ..., nowait: bool = ...
        ) -> None: ...

    class DeleteOk(amqp_object.Method):
        message_count: int
        def __init__(self, message_count: int = ...) -> None: ...

    class Unbind(amqp_object.Method):
        ticket: int
        queue: str
        exchange: str
        routing_key: str
        arguments: dict[str, Any] | None
        def __init__(
            self,
            ticket: int = ...,
            queue: str = ...,
            exchange: str = ...,
            routing_key: str = ...,
            arguments: dict[str, Any] | None = ...,
        ) -> None: ...

    class UnbindOk(amqp_object.Method):
        def __init__(self) -> None: ...

class Basic(amqp_object.Class):
    class Qos(amqp_object.Method):
        prefetch_size: int
        prefetch_count: int
        global_qos: bool
        def __init__(self, prefetch_size: int = ..., prefetch_count: int = ..., global_qos: bool = ...) -> None: ...

    class QosOk(amqp_object.Method):
        def __init__(self) -> None: ...

    class Consume(amqp_object.Method):
        ticket: int
        queue: str
        consumer_tag: str
        no_local: bool
        no_ack: bool
        exclusive: bool
        nowait: bool
        arguments: dict[str, Any] | None
        def __init__(
            self,
            ticket: int = ...,
            queue: str = ...,
            consumer_tag: str = ...,
            no_local: bool = ...,
            no_ack: bool = ...,
            exclusive: bool = ...,
            nowait: bool = ...,
            arguments: dict[str, Any] | None = ...,
        ) -> None: ...

    class ConsumeOk(amqp_object.Method):
        consumer_tag: str
        def __init__(self, consumer_tag: str = ...) -> None: ...

    class Cancel(amqp_object.Method):
        consumer_tag: str
        nowait: bool
        def __init__(self, consumer_tag: str = ..., nowait: bool = ...) -> None: ...

    class CancelOk(amqp_object.Method):
        consumer_tag: str
        def __init__(self, consumer_tag: str = ...) -> None: ...

    class Publish(amqp_object.Method):
        ticket: int
        exchange: str
        routing_key: str
        mandatory: bool
        immediate: bool
        def __init__(
            self,
            ticket: int = ...,
            exchange: str = ...,
            routing_key: str = ...,
            mandatory: bool = ...,
            immediate: bool = ...,
        ) -> None: ...

    class Return(amqp_object.Method):
        reply_code: int
        reply_text: str
        exchange: str
        routing_key: str
        def __init__(
            self, reply_code: int = ..., reply_text: str = ..., exchange: str = ..., routing_key: str = ...
        ) -> None: ...

    class Deliver(amqp_object.Method):
        consumer_tag: str
        delivery_tag: int
        redelivered: bool
        exchange: str
        routing_key: str
        def __init__(
            self,
            consumer_tag: str = ...,
            delivery_tag: int = ...,
            redelivered: bool = ...,
            exchange: str = ...,
            routing_key: str = ...,
        ) -> None: ...

    class Get(amqp_object.Method):
        ticket: int
        queue: str
        no_ack: bool
        def __init__(self, ticket: int = ..., queue: str = ..., no_ack: bool = ...) -> None: ...

    class GetOk(amqp_object.Method):
        delivery_tag: int
        redelivered: bool
        exchange: str
        routing_key: str
        message_count: int
        def __init__(
            self,
            delivery_tag: int = ...,
            redelivered: bool = ...,
            exchange: str = ...,
            routing_key: str = ...,
            message_count: int = ...,
        ) -> None: ...

    class GetEmpty(amqp_object.Method):
        cluster_id: str
        def __init__(self, cluster_id: str = ...) -> None: ...

    class Ack(amqp_object.Method):
        delivery_tag: int
        multiple: bool
        def __init__(self, delivery_tag: int = ..., multiple: bool = ...) -> None: ...

    class Reject(amqp_object.Method):
        delivery_tag: int
        requeue: bool
        def __init__(self, delivery_tag: int = ..., requeue: bool = ...) -> None: ...

    class RecoverAsync(amqp_object.Method):
        requeue: bool
        def __init__(self, requeue: bool = ...) -> None: ...

    class Recover(amqp_object.Method):
        requeue: bool
        def __init__(self, requeue: bool = ...) -> None: ...

    class RecoverOk(amqp_object.Method):
        def __init__(self) -> None: ...

    class Nack(amqp_object.Method):
        delivery_tag: int
        multiple: bool
        requeue: bool
        def __init__(self, delivery_tag: int = ..., multiple: bool = ..., requeue: bool = ...) -> None: ...

class Confirm(amqp_object.Class):
    class Select(amqp_object.Method):
        nowait: bool
        def __init__(self, nowait: bool = ...) -> None: ...

    class SelectOk(amqp_object.Method):
        def __init__(self) -> None: ...

class Tx(amqp_object.Class):
    class Select(amqp_object.Method):
        def __init__(self) -> None: ...

    class SelectOk(amqp_object.Method):
        def __init__(self) -> None: ...

    class Commit(amqp_object.Method):
        def __init__(self) -> None: ...

    class CommitOk(amqp_object.Method):
        def __init__(self) -> None: ...

    class Rollback(amqp_object.Method):
        def __init__(self) -> None: ...

    class RollbackOk(amqp_object.Method):
        def __init__(self) -> None: ...
