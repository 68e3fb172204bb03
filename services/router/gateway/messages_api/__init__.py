"""The Messages API of Anthropic: `/v1/messages`, translated to chats and back."""
