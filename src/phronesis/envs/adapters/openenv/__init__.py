"""OpenEnv's WebSocket protocol, from both sides: worlds of others played here, and our worlds served to others."""
