"""Builds weights/head.safetensors once from public data; nothing at run time imports this room."""
