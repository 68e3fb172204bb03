"""Every attack that Caracal is to stand, B1 to B41, and the tests that make it. A test says that they exist."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

ROWS: dict[int, tuple[str, ...]] = {
    1: ("router/test_http_server.py::test_what_is_not_http_gets_an_error_of_our_form_and_never_a_reset",
        "router/test_bad_wire.py::test_too_many_headers"),
    2: ("router/test_bad_wire.py::test_five_megabytes_are_rejected",
        "router/test_bad_wire.py::test_an_endless_chunked_body_is_rejected_at_the_limit",
        "router/test_content_encoding.py::test_a_bomb_is_rejected_at_the_limit_of_what_it_stands_for"),
    3: ("router/test_large_texts.py::test_the_loop_is_not_late_beside_a_body_of_tiny_chunks",
        "router/test_http_server.py::test_what_is_not_http_gets_an_error_of_our_form_and_never_a_reset"),
    4: ("router/test_slow_clients.py::test_a_request_in_drops_is_answered_408",
        "router/test_open_files.py::test_silent_connections_make_room_for_a_client_that_asks"),
    5: ("security/test_http_attacks.py::test_b05_streams_that_are_reset_at_once",
        "security/test_http_attacks.py::test_b05_headers_without_end"),
    6: ("security/test_http_attacks.py::test_b06_ranges_are_ignored",
        "router/test_bad_wire.py::test_other_media_types"),
    7: ("router/test_bad_wire.py::test_bad_json", "router/test_bad_wire.py::test_nul_characters_are_text"),
    8: ("router/test_bad_wire.py::test_bad_json",),
    9: ("router/test_bad_wire.py::test_unknown_routes", "router/test_bad_wire.py::test_other_methods"),
    10: ("router/test_access.py::test_all_causes_have_the_same_body",),
    11: ("router/test_access.py::test_without_a_key_nothing_but_probes_is_answered",),
    12: ("router/test_access.py::test_stored_responses_belong_to_a_key",),
    13: ("router/test_access.py::test_quotas_of_requests_and_tokens",
         "router/test_access.py::test_open_requests_of_a_key_are_bounded"),
    14: ("router/test_cached_tokens.py::test_each_api_key_has_its_own_salt",
         "router/test_cached_tokens.py::test_no_chosen_salt_is_that_of_a_key",
         "attention_worker/test_prefix_cache.py::test_other_salts_and_switched_off"),
    16: ("router/test_client_errors.py::test_bad_values",),
    17: ("router/test_client_errors.py::test_bad_values",
         "router/test_client_errors.py::test_prompt_and_max_tokens_beyond_the_context_get_the_counts"),
    18: ("router/test_client_errors.py::test_bad_values",),
    19: ("router/test_client_errors.py::test_bad_values",
         "router/test_many_values.py::test_lists_have_limits_of_their_own"),
    20: ("router/test_client_errors.py::test_bad_prompts",
         "router/test_prompt_encoder.py::test_nothing_that_a_request_says_adds_a_control_token"),
    21: ("router/test_large_texts.py::test_the_loop_is_not_late_beside_large_bodies",),
    22: ("router/test_large_texts.py::test_a_template_that_does_not_end_is_ended",
         "router/test_known_fields.py::test_what_is_not_honoured_is_rejected_unless_it_is_off"),
    23: ("attention_worker/test_grammars.py::test_hostile_schemas_take_bounded_time",),
    24: ("router/test_tool_arguments.py", "router/test_client_errors.py::test_bad_chats"),
    25: ("router/test_client_errors.py::test_bad_chats",),
    26: ("router/test_client_errors.py::test_bad_chats",),
    27: ("router/test_known_fields.py::test_what_is_not_honoured_is_rejected_unless_it_is_off",),
    28: ("router/test_known_fields.py::test_an_unknown_field_is_rejected_by_name",),
    29: ("security/test_http_attacks.py::test_b29_names_of_models_reach_nothing",),
    30: ("router/test_failover.py",),
    32: ("security/test_runtime.py::test_b32_nothing_is_unpickled_and_nothing_evaluated",),
    33: ("security/test_hostile_cluster.py::test_b33_a_local_cluster_listens_on_loopback_alone",),
    34: ("wire/test_failures.py::test_a_faulty_worker_s_rows_go_to_the_replica",
         "security/test_hostile_tables.py::test_an_expert_worker_takes_no_table_of_another_shape"),
    35: ("security/test_hostile_records.py::test_a_bad_lease_is_ignored_and_logged_once",
         "security/test_ghost_leases.py::test_two_thousand_ghosts_are_never_listed_and_hold_nobody_up"),
    37: ("security/test_runtime.py::test_b37_there_are_no_other_routes",),
    38: ("security/test_runtime.py::test_b38_code_beside_a_model_is_never_run",),
    39: ("checkpoint/test_checkpoint_validation.py", "checkpoint/test_checkpoint_fuzz.py"),
    40: ("security/test_http_attacks.py::test_b29_names_of_models_reach_nothing",
         "checkpoint/test_shared_tables.py"),
    41: ("security/test_http_attacks.py::test_b41_clients_make_no_time_series",
         "router/test_access_logs.py::test_logs_name_keys_and_never_show_them_or_prompts"),
}  # fmt: skip
NOTHING_TO_ATTACK = {
    15: "sizes of events are not hidden: SECURITY.md says so",
    31: "there are no idempotency keys",
    36: "no client names a shared memory",
}


@cache
def functions(name: str) -> frozenset[str]:
    tree = ast.parse((TESTS / name).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("number", range(1, 42))
def test_every_attack_has_a_test(number: int) -> None:
    assert (number in ROWS) != (number in NOTHING_TO_ATTACK)
    for test in ROWS.get(number, ()):
        name, _, function = test.partition("::")
        found = functions(name)
        assert function in found if function else found, test
