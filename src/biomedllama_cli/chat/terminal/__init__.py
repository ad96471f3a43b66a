"""The terminal a conversation is held in: line editing, replies as they come, commands."""
