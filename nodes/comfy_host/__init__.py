"""The only place that imports ComfyUI's internals: folders, memory, and the model patch."""
