"""What a training job needs of a GPU's memory, known before its first step.

`estimate` turns a model's shape and a configuration into bytes; `verdict` compares them with what
there is; `advice` picks the keys to change. docs/memory.md: what is counted, and how exactly.
"""
