"""chat.py: a chat whose rooms row level security guards, for reading, writing and listening alike.

    DATABASE_URL=postgresql://… python chat.py

It makes a database `chat` beside the one that is named, starts a realtime server in RLS mode on it,
and serves a page: http://127.0.0.1:8000/. Browsers write and read through this program, and listen
to the realtime server. Both act as the role and with the claims of the user's token.
"""

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import psycopg
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from joserfc import jwk, jwt
from joserfc.errors import JoseError
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

HERE = Path(__file__).parent
PORT = int(os.environ.get("PORT", "8000"))
REALTIME_PORT = int(os.environ.get("REALTIME_PORT", "4010"))
DATABASE = "chat"
ROLE = "chat_user"
TOKENS_LAST = 3600  # seconds

# Both processes have it from here, and it ends with them. Yours comes from a secret's store.
SECRET = secrets.token_urlsafe(32)
KEY = jwk.OctKey.import_key(SECRET)


# Setting up: what a migration would do.


def set_up(dsn: str) -> tuple[str, dict[str, str]]:
    """Make the database and the roles, as far as they are not there.

    Returns:
        the DSN of this program's own role, and the realtime server's settings.
    """
    passwords = {name: secrets.token_urlsafe(16) for name in ("chat_app", "chat_server")}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((HERE / "roles.sql").read_bytes())
        for name, password in passwords.items():
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(name), sql.Literal(password)
                )
            )
        known = "SELECT 1 FROM pg_database WHERE datname = %s"
        is_new = connection.execute(known, (DATABASE,)).fetchone() is None
        if is_new:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with psycopg.connect(dsn, dbname=DATABASE) as connection:
        if is_new:
            connection.execute((HERE / "schema.sql").read_bytes())
            connection.execute(
                sql.SQL("GRANT CREATE ON DATABASE {} TO chat_server").format(
                    sql.Identifier(DATABASE)
                )
            )
        own_dsn = make_conninfo(
            dsn, dbname=DATABASE, user="chat_app", password=passwords["chat_app"]
        )
        return own_dsn, {
            "DB_HOST": connection.info.host,
            "DB_PORT": str(connection.info.port),
            "DB_NAME": DATABASE,
            "DB_USER": "chat_server",
            "DB_PASSWORD": passwords["chat_server"],
            "DB_SSL": "true" if connection.info.pgconn.ssl_in_use else "false",
        }


@asynccontextmanager
async def realtime_server(database: dict[str, str]) -> AsyncIterator[None]:
    """Run the realtime server; in earnest it is a service of its own."""
    settings = {
        **database,
        "PORT": str(REALTIME_PORT),
        "REPLICATION_MODE": "RLS",
        "PUBLICATIONS": '["chat"]',
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
        "ALLOWED_ORIGINS": json.dumps([f"http://127.0.0.1:{PORT}", f"http://localhost:{PORT}"]),
        "LOG_LEVEL": "warning",
    }
    command = (sys.executable, "-m", "realtime_server", "--dev")
    # In a session of its own, as Ctrl-C is for this program, which then stops the server.
    environment = {name: text for name, text in os.environ.items() if name != "DATABASE_URL"}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment | settings, start_new_session=True
    )
    waiting = asyncio.create_task(process.wait())
    waiting.add_done_callback(watch)
    try:
        yield
    finally:
        waiting.cancel()
        if process.returncode is None:
            process.terminate()
        await process.wait()


def watch(task: asyncio.Task[int]) -> None:
    """Stop this program when the realtime server has ended: no message would arrive any more."""
    if not task.cancelled():
        app.state.failure = f"the realtime server has ended (exit code {task.result()})"
        signal.raise_signal(signal.SIGINT)  # uvicorn takes it for Ctrl-C


# Serving.

pool: AsyncConnectionPool


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global pool
    dsn, settings = set_up(os.environ["DATABASE_URL"])
    async with realtime_server(settings), AsyncConnectionPool(dsn, open=False) as pool:
        yield


app = FastAPI(lifespan=lifespan)
app.state.failure = None

Claims = dict[str, Any]


def claims_of(authorization: Annotated[str, Header()] = "") -> Claims:
    """Return the claims of a request's token."""
    try:
        token = jwt.decode(authorization.removeprefix("Bearer "), KEY, algorithms=["HS256"])
        jwt.JWTClaimsRegistry(exp={"essential": True}).validate(token.claims)
    except (JoseError, ValueError):
        raise HTTPException(401, "log in first") from None
    return token.claims


User = Annotated[Claims, Depends(claims_of)]


@asynccontextmanager
async def acting_as(claims: Claims) -> AsyncIterator[psycopg.AsyncConnection]:
    """Open a transaction in which the policies see the user."""
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(ROLE)))
        await connection.execute(
            "SELECT set_config('request.jwt.claims', %s, true)", (json.dumps(claims),)
        )
        yield connection


class Login(BaseModel):
    name: str


class Message(BaseModel):
    room: str
    body: str


@app.post("/login")
async def log_in(login: Login) -> dict[str, Any]:
    """Believe anybody who says a name: put your own way to log in here."""
    claims = {"role": ROLE, "sub": login.name, "exp": int(time.time()) + TOKENS_LAST}
    return {"token": jwt.encode({"alg": "HS256"}, claims, KEY), "realtime_port": REALTIME_PORT}


@app.get("/rooms")
async def rooms(claims: User) -> list[str]:
    async with acting_as(claims) as connection:
        found = await connection.execute("SELECT room FROM members ORDER BY room")
        return [room for (room,) in await found.fetchall()]


@app.get("/messages")
async def messages(claims: User, room: str) -> list[dict[str, Any]]:
    """Return the last messages of a room, the oldest first."""
    async with acting_as(claims) as connection, connection.cursor(row_factory=dict_row) as rows:
        await rows.execute(
            "SELECT id, room, author, body FROM messages WHERE room = %s ORDER BY id DESC LIMIT 50",
            (room,),
        )
        return (await rows.fetchall())[::-1]


@app.post("/messages", status_code=201)
async def write(claims: User, message: Message) -> None:
    try:
        async with acting_as(claims) as connection:
            await connection.execute(
                "INSERT INTO messages (room, author, body) VALUES (%s, %s, %s)",
                (message.room, claims["sub"], message.body),
            )
    except psycopg.errors.InsufficientPrivilege:
        raise HTTPException(403, "you are not in that room") from None
    except (psycopg.errors.CheckViolation, psycopg.DataError):
        raise HTTPException(422, "a message has 1 to 1000 characters, and none is NUL") from None


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(HERE / "index.html")


app.mount("/supabase", StaticFiles(directory=HERE / "node_modules/@supabase/supabase-js/dist/umd"))

if __name__ == "__main__":
    if "DATABASE_URL" not in os.environ:
        sys.exit("usage: DATABASE_URL=postgresql://… python chat.py")
    uvicorn.run(app, port=PORT, access_log=False, timeout_graceful_shutdown=1)
    if app.state.failure:
        sys.exit(f"chat.py: {app.state.failure}")
