"""Messages and services on the wire. `tensors` is the only file that knows both torch and protobuf."""
