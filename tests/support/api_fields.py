"""The fields of request bodies that clients of other servers send: those of OpenAI's and Anthropic's SDKs and of vLLM.

vLLM's are written down from its protocol classes (ChatCompletionRequest and CompletionRequest, of 0.11 to 0.19).
"""

from __future__ import annotations

from typing import get_type_hints

from anthropic.types.beta.message_count_tokens_params import MessageCountTokensParams as BetaCountParams
from anthropic.types.beta.message_create_params import MessageCreateParamsBase as BetaParams
from anthropic.types.message_count_tokens_params import MessageCountTokensParams as CountParams
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as MessagesParams
from anthropic.types.message_create_params import MessageCreateParamsStreaming as StreamedMessagesParams
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as StreamedChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as TextParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as StreamedTextParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as ResponsesParams
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming as StreamedResponsesParams

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
OPENAI_RESPONSES = frozenset(get_type_hints(ResponsesParams)) | frozenset(get_type_hints(StreamedResponsesParams))
ANTHROPIC_MESSAGES = frozenset(get_type_hints(MessagesParams)) | frozenset(get_type_hints(StreamedMessagesParams))
ANTHROPIC_COUNT = frozenset(get_type_hints(CountParams))
# Beta clients call the same route; `betas` is a header.
ANTHROPIC_BETA = (frozenset(BetaParams.__annotations__) | frozenset(BetaCountParams.__annotations__)) - {"betas"}
