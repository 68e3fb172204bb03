"""The Responses API of OpenAI: `/v1/responses`, translated to chats and back."""
