"""Mutated requests, pictures and files: nothing of them may do more than be refused.

`python -m tests.fuzz --count 100000` throws them at a real server; `python -m tests.fuzz.guided
TARGET` feeds one reader in a process of its own, guided by coverage. All are made of seeds, so that
each can be made again; what fails is kept in a folder and thrown again by `--replay FILE`.
"""
