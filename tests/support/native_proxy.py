"""A proxy in front of a worker's native sessions: it records calls and changes, drops or cuts replies on their way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import replace

from caracal_proto import expert_pb2, tensor_pb2
from caracal_proto.tensors import checksum
from support.native_frames import CALL, REPLY, Frame, FramesEnded, read_frame

LAYER_AT = 40  # of a frame's bytes
OnCall = Callable[[expert_pb2.ExpertCall], None]
OnReply = Callable[[expert_pb2.ExpertReply], "expert_pb2.ExpertReply | None"]


class NativeProxy:
    """Stands between callers and one worker. `on_reply` returns the reply to pass on, None to drop it, or raises."""

    def __init__(self, on_call: OnCall, on_reply: OnReply) -> None:
        self._on_call, self._on_reply = on_call, on_reply
        # How many are to get a flipped bit, with the checksums of what was sent: in ids, in rows, and in headers.
        self.damaged_calls = self.damaged_replies = 0
        self.damaged_call_headers = self.damaged_reply_headers = 0

    def cover(self, place: expert_pb2.OpenReply) -> expert_pb2.OpenReply:
        """The same place, reached through this proxy."""
        listener = socket.create_server(("127.0.0.1", 0))
        upstream = place.host, place.port
        covered = expert_pb2.OpenReply()
        covered.CopyFrom(place)
        covered.port, covered.unix_name = listener.getsockname()[1], "not-here"
        threading.Thread(target=self._serve, args=(listener, upstream), name="native-proxy", daemon=True).start()
        return covered

    def _serve(self, listener: socket.socket, upstream: tuple[str, int]) -> None:
        listener.settimeout(10)
        with listener, contextlib.suppress(OSError):
            caller, _ = listener.accept()
            caller.settimeout(None)
            worker = socket.create_connection(upstream)
            for one in (caller, worker):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pump, args=(worker, caller, self._reply), daemon=True)
            back.start()
            self._pump(caller, worker, self._call)
            back.join()
            caller.close()
            worker.close()

    def _pump(self, source: socket.socket, target: socket.socket, change: Callable[[Frame], Frame | None]) -> None:
        try:
            while True:
                frame = change(read_frame(source))
                if frame is not None:
                    target.sendall(self._on_the_wire(frame))
        except (FramesEnded, OSError, RuntimeError):
            for one in (source, target):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _on_the_wire(self, frame: Frame) -> bytes:
        data = frame.encoded()
        if frame.kind == CALL and self.damaged_call_headers:
            self.damaged_call_headers -= 1
        elif frame.kind == REPLY and self.damaged_reply_headers:
            self.damaged_reply_headers -= 1
        else:
            return data
        return data[:LAYER_AT] + bytes([data[LAYER_AT] ^ 1]) + data[LAYER_AT + 1 :]

    def _call(self, frame: Frame) -> Frame:
        if frame.kind == CALL:
            ids = 4 * frame.assignments
            self._on_call(
                expert_pb2.ExpertCall(
                    session=frame.session,
                    call=frame.call,
                    step=frame.step,
                    layer=frame.layer,
                    epoch=frame.epoch,
                    rows=frame.rows,
                    x=tensor_pb2.Tensor(data=frame.body[2 * ids :], shape=(frame.rows, frame.hidden)),
                    row=frame.body[:ids],
                    expert=frame.body[ids : 2 * ids],
                )
            )
            if self.damaged_calls:
                self.damaged_calls -= 1
                return flipped(frame)
        return frame

    def _reply(self, frame: Frame) -> Frame | None:
        if frame.kind != REPLY:
            return frame
        reply = expert_pb2.ExpertReply(call=frame.call, epoch=frame.epoch)
        reply.status = frame.status  # type: ignore[assignment]
        if frame.status:
            reply.message = frame.body.decode()
        else:
            reply.rows, reply.checksum = frame.assignments, checksum(frame.body)
            reply.y.data, reply.y.dtype = frame.body, frame.dtype  # type: ignore[assignment]
            reply.y.shape.extend((frame.assignments, frame.hidden))
        if self.damaged_replies:
            self.damaged_replies -= 1
            return flipped(frame)
        before = reply.SerializeToString()
        changed = self._on_reply(reply)
        if changed is None or changed.SerializeToString() == before:
            return None if changed is None else frame
        return _frame_of(changed, frame)


def flipped(frame: Frame) -> Frame:
    """The frame with another first bit of its body, and with the checksum that it had."""
    return replace(frame, body=bytes([frame.body[0] ^ 1]) + frame.body[1:])


def _frame_of(reply: expert_pb2.ExpertReply, frame: Frame) -> Frame:
    """The frame of a changed reply: a wrong checksum stays wrong."""
    if reply.status:
        return replace(frame, status=reply.status, assignments=0, body=reply.message.encode()).sealed()
    shape = reply.y.shape
    changed = replace(frame, assignments=shape[0], hidden=shape[1], dtype=reply.y.dtype, body=reply.y.data).sealed()
    damaged = reply.checksum != checksum(reply.y.data)
    return replace(changed, body_crc=changed.body_crc ^ 1) if damaged else changed
