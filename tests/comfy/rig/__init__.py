"""Tests of the pack on a real ComfyUI: in this process (host, models) and as a server (server, frontend)."""
