"""POST /v1/responses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import Request
from pydantic import ValidationError

from services.router.gateway.chat import prepare_chat
from services.router.gateway.context import GatewayContext
from services.router.gateway.field_names import FieldNames
from services.router.gateway.off_loop import off_loop
from services.router.gateway.request_body import read_model
from services.router.gateway.responses_api.answer import Answer
from services.router.gateway.responses_api.conversation import stored, stored_output
from services.router.gateway.responses_api.events import ResponseEvents
from services.router.gateway.responses_api.items import ITEMS, AnyItem, parts_of
from services.router.gateway.responses_api.records import Record
from services.router.gateway.responses_api.schemas import ResponsesRequest
from services.router.gateway.responses_api.store import ResponseStore
from services.router.gateway.responses_api.translation import chat_request, input_items
from services.router.gateway.resumption import refuse_to_resume
from services.router.gateway.schemas import ChatRequest
from services.router.gateway.sections import SectionReader
from services.router.gateway.streaming import Client, GenerationResponse
from services.router.requests.errors import InvalidRequest, RouterError

FEW_ITEMS = 64  # more of them, or of their parts, are translated off the event loop
SHOWN = 80  # characters of an id in an error


class Turn:
    """One request: what it continues, its answer, and whether that is to be stored."""

    def __init__(self, body: ResponsesRequest, before: Sequence[Record], answer: Answer, reader: SectionReader) -> None:
        self.body = body
        self.before = [str(record.response["id"]) for record in before]
        self.answer = answer
        self.reader = reader

    async def store(self, store: ResponseStore | None) -> None:
        """Stores the finished answer, if it is to be. Raises RouterError."""
        if store is not None and self.answer.response.store:
            await store.write(await off_loop(self._record), "store")

    def _record(self) -> Record:
        response = self.answer.response.model_dump()
        response["output"] = stored_output(response["output"])
        return Record(response, stored(input_items(self.body)), self.before)


async def responses(gateway: GatewayContext, request: Request) -> GenerationResponse:
    """Checks the request and prepares its answer; the response generates it while the client waits."""
    refuse_to_resume(request)
    body = await read_model(request, ResponsesRequest)
    gateway.check_model(body.model)
    stores = will_store(body, gateway.responses)
    before = await continued(body, gateway.responses)
    if before or (not isinstance(body.input, str) and sum(map(parts_of, body.input)) > FEW_ITEMS):
        chat, names = await off_loop(translated, body, before)
    else:
        chat, names = translated(body, before)
    with names.of_the_caller():
        (choice,), _ = await prepare_chat(gateway, chat, request.state.request_id)
    if stores and gateway.responses is not None:
        await gateway.responses.check("store")
    answer = Answer(body, choice, gateway.serving.assets.name, stores=stores)
    turn = Turn(body, before, answer, SectionReader(choice, names, with_tokens=body.wants_logprobs))
    return GenerationResponse(
        partial(stream if body.stream else whole, gateway.responses, turn), stream=bool(body.stream)
    )


def will_store(body: ResponsesRequest, store: ResponseStore | None) -> bool:
    """Whether the answer is to be stored: unless the request or the router's settings say otherwise."""
    keeps = store is not None and store.keeps
    if not keeps and (body.store or body.previous_response_id is not None):
        param = "store" if body.store else "previous_response_id"
        raise InvalidRequest(
            f"{param} is not supported: this router stores no responses (CARACAL_RESPONSE_TTL_S).",
            param=param,
            code="unsupported_parameter",
        )
    return keeps and body.store is not False


async def continued(body: ResponsesRequest, store: ResponseStore | None) -> list[Record]:
    """Returns the responses that the request continues, oldest first. Raises InvalidRequest."""
    if body.previous_response_id is None or store is None:
        return []
    records = await store.chain(body.previous_response_id, "previous_response_id")
    if records is None:
        raise InvalidRequest(
            f"Previous response with id '{body.previous_response_id[:SHOWN]}' not found. Responses are stored for a"
            " while only, and not with store: false.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return records


def translated(body: ResponsesRequest, before: Sequence[Record]) -> tuple[ChatRequest, FieldNames]:
    """Returns the chat of a request with what it continues, and the caller's names of its fields."""
    return chat_request(body, [item for record in before for item in items_of(record)])


def items_of(record: Record) -> list[AnyItem]:
    """Returns the items of a stored response, its answer's included. Raises RouterError for what nobody wrote."""
    try:
        return ITEMS.validate_python([*record.items, *record.response["output"]])
    except ValidationError as error:
        raise RouterError(f"A stored response cannot be read: {error.error_count()} fields are wrong.") from None


async def whole(store: ResponseStore | None, turn: Turn, client: Client) -> None:
    await turn.reader.run()
    for section in turn.reader.sections:
        turn.answer.add(section)
    for section, item in zip(turn.reader.sections, turn.answer.response.output, strict=True):
        turn.answer.close(section, item)
    turn.answer.finish()
    await turn.store(store)
    await client.whole(turn.answer.response.model_dump())


async def stream(store: ResponseStore | None, turn: Turn, client: Client) -> None:
    """Writes the events as they come. An error after the first event ends the response as failed."""
    events = ResponseEvents(turn.answer)
    try:
        await turn.reader.stream(client, events.steps)
        turn.answer.finish()
        await turn.store(store)
        await client.last(events.end())
    except RouterError as error:
        if not client.started:
            raise
        await client.last(events.fail(error))
