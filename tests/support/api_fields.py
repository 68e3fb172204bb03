"""The fields of request bodies that clients of other servers send: those of the OpenAI SDK, and those of vLLM's server.

vLLM's are written down from its protocol classes (ChatCompletionRequest and CompletionRequest, of 0.11 to 0.19).
"""

from __future__ import annotations

from typing import get_type_hints

from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as StreamedChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as TextParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as StreamedTextParams

VLLM = frozenset(
    {
        *("add_special_tokens", "allowed_token_ids", "bad_words", "cache_salt", "detokenize", "echo", "ignore_eos"),
        *("include_stop_str_in_output", "kv_transfer_params", "length_penalty", "logits_processors", "min_p"),
        *("min_tokens", "priority", "prompt_logprobs", "repetition_penalty", "request_id", "response_format"),
        *("return_token_ids", "return_tokens_as_token_ids", "skip_special_tokens", "spaces_between_special_tokens"),
        *("stop_token_ids", "structured_outputs", "top_k", "truncate_prompt_tokens", "use_beam_search", "vllm_xargs"),
        *("guided_choice", "guided_decoding_backend", "guided_grammar", "guided_json", "guided_regex"),
        *("guided_whitespace_pattern", "structural_tag", "early_stopping", "best_of"),
    }
)
VLLM_CHAT = VLLM | {
    *("add_generation_prompt", "chat_template", "chat_template_kwargs", "continue_final_message", "documents"),
    *("include_reasoning", "mm_processor_kwargs", "thinking_token_budget", "reasoning_effort"),
}
VLLM_TEXT = VLLM | {"prompt_embeds", "suffix"}
OPENAI_CHAT = frozenset(get_type_hints(ChatParams)) | frozenset(get_type_hints(StreamedChatParams))
OPENAI_TEXT = frozenset(get_type_hints(TextParams)) | frozenset(get_type_hints(StreamedTextParams))
