"""Runs in a pod, or beside a test: a Redis with an ACL user, behind TLS. Standard library only.

Arguments: the redis-server, the TLS port, the folder with tls.crt and tls.key, the user, the password.
"""

import asyncio
import signal
import ssl
import subprocess
import sys
import tempfile

SERVER, PORT, FOLDER, USER, PASSWORD = sys.argv[1:]
CHUNK = 1 << 16


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


def start(folder: str, socket: str) -> subprocess.Popen[bytes]:
    with open(f"{folder}/users.acl", "w") as users:
        users.write(f"user default off\nuser {USER} on >{PASSWORD} ~* &* +@all\n")
    command = [SERVER, "--port", "0", "--unixsocket", socket, "--aclfile", f"{folder}/users.acl", "--dir", folder]
    return subprocess.Popen([*command, "--save", "", "--appendonly", "no"], stdout=sys.stderr)


async def main() -> None:
    folder = tempfile.mkdtemp()
    socket = f"{folder}/redis.sock"
    redis = start(folder, socket)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, redis.terminate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_redis, to_redis = await asyncio.open_unix_connection(socket)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, to_redis), copy(from_redis, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{FOLDER}/tls.crt", f"{FOLDER}/tls.key")
    server = await asyncio.start_server(serve, "", int(PORT), ssl=context)
    print("serving", flush=True)
    async with server:
        await asyncio.to_thread(redis.wait)


asyncio.run(main())
