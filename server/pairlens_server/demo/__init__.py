"""The demo: two small models, a few photographs, and the main job run on them.

`python -m pairlens_server.demo` starts the real server in a process of its own and
asks it, through the SDK, why pairs of photographs match.
"""
