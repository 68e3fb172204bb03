"""Who plays which role: a program, or the endpoint that `--role ROLE=URL` names."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from training.agentic.checkers import program_checker
from training.agentic.difficulty import Difficulty
from training.agentic.endpoint import Endpoint
from training.agentic.endpoint_roles import (
    EndpointChecker,
    EndpointEnvironment,
    EndpointScenarios,
    EndpointTools,
    EndpointUser,
)
from training.agentic.environment import program_environment
from training.agentic.episode import Roles
from training.agentic.scenarios import scenario
from training.agentic.task import ScenarioRole, Task, ToolsRole, make_task
from training.agentic.toolset import program_tools
from training.agentic.users import program_user
from training.data.words.vocabulary import Novelty

ROLES = ("scenario", "tools", "user", "environment", "checker")


@dataclass(frozen=True)
class Cast:
    """Makes tasks, and the roles that play them."""

    scenario: ScenarioRole = scenario
    tools: ToolsRole = program_tools
    roles: Roles = field(default_factory=Roles)

    def task(self, name: str, difficulty: Difficulty, novelty: Novelty) -> Task:
        return make_task(name, difficulty, novelty, self.scenario, self.tools)


def cast(endpoints: dict[str, Endpoint]) -> Cast:
    """Returns a cast in which these roles are played by endpoints, and the others by programs."""
    given = endpoints.get
    user, environment, checker = given("user"), given("environment"), given("checker")
    roles = Roles(
        (lambda task: EndpointUser(user, task)) if user else program_user,
        (lambda one, tools: EndpointEnvironment(environment, one.start(), tools))
        if environment
        else program_environment,
        EndpointChecker(checker) if checker else program_checker,
    )
    scenarios, tools = given("scenario"), given("tools")
    return Cast(
        EndpointScenarios(scenarios) if scenarios else scenario,
        EndpointTools(tools) if tools else program_tools,
        roles,
    )


def add_role_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--role",
        action="append",
        default=[],
        metavar="ROLE=URL",
        help=f"an OpenAI-compatible endpoint instead of the program: URL or URL#MODEL; roles: {', '.join(ROLES)}",
    )


def parse_roles(texts: list[str]) -> dict[str, Endpoint]:
    """Reads `--role` options. Raises ValueError naming one that is wrong, EndpointError when no server answers."""
    found = {}
    for text in texts:
        role, equals, url = text.partition("=")
        if role not in ROLES or not equals:
            raise ValueError(f"--role {text}: must be ROLE=URL, with one of {', '.join(ROLES)}")
        found[role] = Endpoint.open(url)
    return found
